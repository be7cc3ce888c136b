//! Speed and memory of dist/handler against a real development agent of Consul, printed, not judged (`make bench`).
//! Called as `git` or `docker-compose` it is the stand-in that returns at once and notes how it was called; the engine's socket is answered
//! by a thread of it. As `docker` it serves older handlers, to compare with.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::zombie_processes)] // wait4 reaps

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const ADDRESS: &str = "127.0.0.1:18500";
const COMMIT: &str = "1111111111111111111111111111111111111111";
/// For the stand-ins; docker-compose sees few other variables.
const CALLS: &str = "DOCKER_BENCH_CALLS";
/// The address that the application's route has.
const SITE: &str = "DOCKER_BENCH_SITE";
/// What the engine says of the only container there is.
const CONTAINER: &str = r#"{"Id":"0123456789ab","Name":"/web","Image":"sha256:1","RestartCount":0,
    "State":{"Status":"running","ExitCode":0,"StartedAt":"2020-01-01T00:00:00Z"},
    "Config":{"Image":"web","Labels":{"com.docker.compose.service":"web"}}}"#;
/// What the engine lists, once this node has applications.
static LISTED: OnceLock<String> = OnceLock::new();
/// Requests to the engine.
static ASKED: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let me = std::env::args().next().unwrap();
    let name = Path::new(&me).file_name().unwrap().to_str().unwrap().to_string();
    if name == "git" || name.starts_with("docker") {
        let words: Vec<String> = std::env::args().skip(1).collect();
        stand_in(&words);
        if let Ok(calls) = std::env::var(CALLS) {
            let call = [&[name], &words[..]].concat().join("\t") + "\n";
            fs::OpenOptions::new().append(true).open(calls).unwrap().write_all(call.as_bytes()).unwrap();
        }
        return;
    }
    let [handler, consul] = [1, 2].map(|at| fs::canonicalize(std::env::args().nth(at).expect("bench HANDLER CONSUL")).unwrap());
    let work = std::env::temp_dir().join(format!("handler-bench-{}", std::process::id()));
    fs::create_dir_all(work.join("bin")).unwrap();
    for tool in ["git", "docker", "docker-compose"] {
        symlink(std::env::current_exe().unwrap(), work.join("bin").join(tool)).unwrap();
    }
    engine(&work.join("docker.sock"));
    let agent = Agent::start(&consul, &work);
    let bench = Bench { handler, work: work.clone() };
    println!("{:44} {:>9} {:>10}", "", "ms", "peak KiB");
    println!("{:44} {:>9} {:>10}", "size of the binary: KiB", fs::metadata(&bench.handler).unwrap().len() / 1024, "");
    bench.median("idle: []", "[]", 200);
    let events = events();
    bench.run(&[], &events, ""); // makes them known
    bench.median("256 known events", &events, 100);
    bench.redeploy();
    for (begin, all) in [(0, 200), (200, 1000)] {
        agent.put_records(begin..all);
        bench.many(&agent, all);
    }
    bench.median("idle with 1000 applications of other nodes", "[]", 100);
    bench.check(&agent);
    drop(agent);
    fs::remove_dir_all(&work).unwrap();
}

/// What docker and git answer for an application without data.
fn stand_in(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["clone", .., folder] => {
            fs::create_dir_all(folder).unwrap();
            fs::write(Path::new(folder).join("docker-compose.yml"), "services:\n  web:\n    build: .\n").unwrap();
        }
        [.., "config", "--format", "json"] => {
            let site = std::env::var(SITE).unwrap_or_default();
            let environment = if site.is_empty() { json!({}) } else { json!({"CADDYFILE": format!("{site} {{\n proxy / web:80\n}}")}) };
            println!("{}", json!({"name": "bench", "services": {"web": {"build": {"context": "."}, "environment": environment}}}));
        }
        ["info", ..] => println!("docker-compose"),
        ["version", "--short"] => println!("2.26.1"),
        ["rev-parse", ..] => println!("{COMMIT}"),
        ["ps", ..] => println!("0123456789ab"),
        ["inspect", ..] => println!("[{CONTAINER}]"),
        _ => {}
    }
}

/// The engine's socket, until the process ends.
fn engine(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // One that ends early is the handler's affair.
            thread::spawn(move || stream.and_then(|stream| requests(&stream)));
        }
    });
}

/// One after another, until the handler hangs up.
fn requests(mut stream: &UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().unwrap_or(0),
                Some(_) => {}
                None => break,
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        ASKED.fetch_add(1, Ordering::Relaxed);
        let (status, body) = answer(&head);
        write!(stream, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// What the engine answers where an application has one container and no data.
fn answer(head: &str) -> (&'static str, &'static str) {
    let mut words = head.split([' ', '?']);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // The API's version may stand in front.
    let parts: Vec<&str> = path.split('/').skip(1).skip_while(|part| part.starts_with("v1.")).collect();
    match (method, parts.as_slice()) {
        ("GET", ["version"]) => ("200 OK", r#"{"Version":"20.10.24"}"#),
        // Of all projects; that of one names it behind an equals sign.
        ("GET", ["containers", "json"]) if !head.contains("project%3D") && !head.contains("project=") && LISTED.get().is_some() => {
            ("200 OK", LISTED.get().unwrap())
        }
        ("GET", ["containers", "json"]) => ("200 OK", r#"[{"Id":"0123456789ab","Names":["/web"],"State":"running"}]"#),
        ("GET", ["containers", _, "json"]) => ("200 OK", CONTAINER),
        ("GET", ["containers", _, "logs"] | ["_ping"]) => ("200 OK", ""),
        ("GET", ["volumes"]) => ("200 OK", r#"{"Volumes":[],"Warnings":null}"#),
        ("GET", ["images", .., "json"]) => ("200 OK", r#"{"Id":"sha256:1"}"#),
        ("POST", ["images", .., "tag"]) => ("201 Created", ""),
        ("POST", ["containers", _, "update"]) => ("200 OK", r#"{"Warnings":null}"#),
        ("POST" | "DELETE", ["containers" | "volumes" | "images", ..]) => ("204 No Content", ""),
        _ => ("404 Not Found", r#"{"message":"page not found"}"#),
    }
}

fn events() -> String {
    let event = |at: u32| format!(r#"{{"ID":"00000000-0000-0000-0000-{at:012}","Name":"note","Payload":"e30=","Version":1,"LTime":{at}}}"#);
    format!("[{}]", (0..256).map(event).collect::<Vec<_>>().join(","))
}

/// An event.
fn deploy(at: usize) -> String {
    use base64::Engine;
    let payload =
        base64::engine::general_purpose::STANDARD.encode(r#"{"repo":"https://git.example.com/bench","branch":"main","master":"node1"}"#);
    format!(r#"[{{"ID":"10000000-0000-0000-0000-{at:012}","Name":"deploy","Payload":"{payload}"}}]"#)
}

/// With three addresses; another round, another address.
fn record(at: usize, round: usize) -> String {
    let domains = ["".into(), "www.".into(), format!("shop{round}.")].map(|sub| format!("{sub}app{at}.example.com"));
    let urls = domains.each_ref().map(|domain| format!("http://{domain}"));
    let sites = urls.each_ref().map(|url| format!("{url} {{\\n    reverse_proxy app{at}-web-1:80\\n}}")).join("\\n");
    let (domains, urls) = (domains.join(r#"",""#), urls.join(" "));
    let text = format!(
        r#"{{"haproxy":{{}},"caddyfile":"{sites}","repo_url":"https://git.example.com/app{at}",
        "branch":"main","deploy_id":"00000000-0000-0000-0000-{at:012}","previous_deploy_id":null,"deploy_date":"2026-01-01T000000.000000","domains":["{domains}"],
        "urls":"{urls}","ip":"10.0.0.2","master":"other","slave":null,"ct":{{"web":"app{at}-web-1"}},"volumes":["app{at}_data"],"commit":"{COMMIT}"}}"#
    );
    use base64::Engine;
    let value = base64::engine::general_purpose::STANDARD.encode(text);
    format!(r#"{{"KV":{{"Verb":"set","Key":"app/app{at}_main.{:05x}","Value":"{value}"}}}}"#, at)
}

fn own_name(at: usize) -> String {
    format!("own{at}_main.{at:05x}")
}

fn own_id(at: usize) -> String {
    format!("20000000-0000-0000-0000-{at:012}")
}

/// Of an application of this node's.
fn own_record(at: usize) -> String {
    use base64::Engine;
    let project = own_name(at).replace(['_', '.'], "");
    let mut record = json!({"haproxy": {}, "caddyfile": "http://x {\n}", "repo_url": "https://git.example.com/own", "branch": "main", "deploy_id": own_id(at),
        "previous_deploy_id": null, "deploy_date": "2026-01-01T000000.000000", "urls": "", "ip": "10.0.0.1", "master": "node1", "slave": null, "commit": COMMIT});
    record["ct"] = json!({"web": format!("{project}-web-1"), "db": format!("{project}-db-1")});
    let value = base64::engine::general_purpose::STANDARD.encode(record.to_string());
    format!(r#"{{"KV":{{"Verb":"set","Key":"app/{}","Value":"{value}"}}}}"#, own_name(at))
}

/// As an engine lists two containers for each, with all that it says of one.
fn listed(applications: usize) -> String {
    let one = |at: usize, service: &str| {
        let project = own_name(at).replace(['_', '.'], "");
        let (name, id) = (format!("{project}-{service}-1"), format!("{at:064x}"));
        json!({"Id": id, "Names": [format!("/{name}")], "Image": format!("{project}-{service}"), "ImageID": format!("sha256:{id}"),
            "Command": "docker-entrypoint.sh apache2-foreground", "Created": 1_795_370_362, "State": "running", "Status": "Up 3 days (healthy)",
            "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
            "Labels": {"com.docker.compose.project": project, "com.docker.compose.service": service, "com.docker.compose.oneoff": "False",
                "com.docker.compose.config-hash": id, "com.docker.compose.image": format!("sha256:{id}"), "com.docker.compose.version": "2.26.1",
                "com.docker.compose.project.working_dir": "/deploy", "com.docker.compose.project.config_files": "/deploy/.handler-compose.json"},
            "HostConfig": {"NetworkMode": "cluster_default"},
            "NetworkSettings": {"Networks": {"cluster_default": {"NetworkID": id, "EndpointID": id, "Gateway": "172.18.0.1", "IPAddress": "172.18.0.2"}}},
            "Mounts": [{"Type": "volume", "Name": format!("{project}_data"), "Source": "/var/lib/buttervolume/volumes", "Destination": "/data", "RW": true}]})
    };
    Value::from((0..applications).flat_map(|at| [one(at, "web"), one(at, "db")]).collect::<Vec<_>>()).to_string()
}

struct Agent(Child);

impl Agent {
    fn start(consul: &Path, work: &Path) -> Agent {
        let log = fs::File::create(work.join("consul.log")).unwrap();
        let ports =
            ["-http-port=18500", "-serf-lan-port=18301", "-serf-wan-port=18302", "-server-port=18300", "-dns-port=-1", "-grpc-port=-1"];
        let mut command = Command::new(consul);
        command.args(["agent", "-dev", "-bind=127.0.0.1", "-node=node1"]).args(ports).stdout(log).stderr(Stdio::null());
        let agent = Agent(command.spawn().expect("consul"));
        let start = Instant::now();
        while !agent.try_put("kv/ready", "yes") {
            assert!(start.elapsed() < Duration::from_secs(30), "no leader within 30 s");
            sleep(Duration::from_millis(100));
        }
        agent
    }

    fn call(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(ADDRESS)?;
        write!(stream, "{method} /v1/{path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer)?;
        Ok(answer)
    }

    fn try_put(&self, path: &str, body: &str) -> bool {
        self.call("PUT", path, body).is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    fn put_records(&self, which: std::ops::Range<usize>) {
        for batch in which.collect::<Vec<_>>().chunks(50) {
            let records: Vec<String> = batch.iter().map(|at| record(*at, 0)).collect();
            self.put("txn", &format!("[{}]", records.join(",")));
        }
    }

    fn put(&self, path: &str, body: &str) {
        assert!(self.try_put(path, body), "PUT {path}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("the agent ends");
    }
}

/// The median.
fn middle(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

struct Bench {
    handler: PathBuf,
    work: PathBuf,
}

impl Bench {
    /// Time in ms, peak memory in KiB, exit status.
    fn run(&self, args: &[&str], input: &str, site: &str) -> (f64, i64, i32) {
        let path = format!("{}:{}", self.work.join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(&self.handler);
        command.env("PATH", path).env("DEPLOY_DIR", self.work.join("deploy")).env("CONSUL_HTTP_ADDR", ADDRESS).env("HANDLER_SETTLE", "0");
        command.env("DOCKER_HOST", format!("unix://{}", self.work.join("docker.sock").display()));
        command.env(CALLS, self.work.join("calls")).env(SITE, site);
        for proxy in ["CADDY", "HAPROXY"] {
            command.env(format!("HANDLER_{proxy}_CHECK"), r#"["true"]"#).env(format!("HANDLER_{proxy}_RELOAD"), r#"["true"]"#);
        }
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
        // SAFETY: both are written by the call; the child is ours and not waited for elsewhere.
        unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
        (begun.elapsed().as_secs_f64() * 1000.0, usage.ru_maxrss, libc::WEXITSTATUS(status))
    }

    fn median(&self, what: &str, input: &str, runs: usize) {
        let all: Vec<(f64, i64, i32)> = (0..runs).map(|_| self.run(&[], input, "")).collect();
        assert!(all.iter().all(|run| run.2 == 0), "{what}: exits with {:?}", all[0].2);
        println!("{what:44} {:9.2} {:10}", middle(all.iter().map(|run| run.0)), all.iter().map(|run| run.1).max().unwrap());
    }

    /// The second deploy and later ones, over what their commands take when they are run alone.
    fn redeploy(&self) {
        let (mut whole, mut over, mut commands, mut asked, mut peak) = (Vec::new(), Vec::new(), 0, 0, 0);
        for at in 0..30 {
            fs::write(self.work.join("calls"), "").unwrap();
            ASKED.store(0, Ordering::Relaxed);
            let (ms, memory, status) = self.run(&[], &deploy(at), "");
            assert_eq!(status, 0, "{}", fs::read_to_string(self.work.join("deploy/handler.log")).unwrap());
            let calls = fs::read_to_string(self.work.join("calls")).unwrap();
            let begun = Instant::now();
            for call in calls.lines() {
                let words: Vec<&str> = call.split('\t').collect();
                let mut command = Command::new(self.work.join("bin").join(words[0]));
                command.args(&words[1..]).current_dir(&self.work).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                command.status().unwrap();
            }
            if at > 0 {
                whole.push(ms);
                over.push(ms - begun.elapsed().as_secs_f64() * 1000.0);
                (commands, asked) = (calls.lines().count(), ASKED.load(Ordering::Relaxed));
                peak = peak.max(memory);
            }
        }
        println!("{:44} {:9.2} {peak:10}", "redeploy, with commands that do nothing", middle(whole.into_iter()));
        println!("{:44} {:9.2} {:>10}", format!("redeploy, over its {commands} commands' own time"), middle(over.into_iter()), "");
        println!("{:44} {asked:9}", "  requests to the engine in it");
    }

    /// The health check of a node with 100 applications of its own, of two containers each.
    fn check(&self, agent: &Agent) {
        const OWN: usize = 100;
        for batch in (0..OWN).collect::<Vec<_>>().chunks(50) {
            agent.put("txn", &format!("[{}]", batch.iter().map(|at| own_record(*at)).collect::<Vec<_>>().join(",")));
        }
        for at in 0..OWN {
            let folder = self.work.join(format!("deploy/.handler/apps/{}", own_name(at)));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("state.json"), format!(r#"{{"role":"master","deploy_id":"{}","volumes":[]}}"#, own_id(at))).unwrap();
        }
        LISTED.set(listed(OWN)).unwrap();
        assert_eq!(self.run(&["probe"], "", "").2, 0);
        let runs: Vec<(f64, i64, i32)> = (0..50).map(|_| self.run(&["check"], "", "")).collect();
        assert!(runs.iter().all(|run| run.2 == 0), "the check exits with {}", runs[0].2);
        let peak = runs.iter().map(|run| run.1).max().unwrap();
        println!("{:44} {:9.2} {peak:10}", format!("check: {OWN} of 1100 applications are here"), middle(runs.iter().map(|run| run.0)));
    }

    /// With `all` applications of other nodes. Medians.
    fn many(&self, agent: &Agent, all: usize) {
        const RUNS: usize = 15;
        let print = |what: &str, runs: Vec<(f64, i64)>| {
            let peak = runs.iter().map(|run| run.1).max().unwrap();
            println!("{:44} {:9.2} {peak:10}", format!("{all} applications: {what}"), middle(runs.iter().map(|run| run.0)));
        };
        // Before each run something may have happened in Consul.
        let routes = |before: &dyn Fn(usize)| -> Vec<(f64, i64)> {
            let run = |round| {
                before(round);
                let (ms, peak, status) = self.run(&["routes"], "", "");
                assert_eq!(status, 0, "{}", fs::read_to_string(self.work.join("deploy/handler.log")).unwrap());
                (ms, peak)
            };
            (1..=RUNS).map(run).collect()
        };
        print("routes written", routes(&|round| agent.put("txn", &format!("[{}]", record(0, round)))));
        print("routes, nothing changed", routes(&|_| {}));
        print("routes, another key changed", routes(&|round| agent.put("kv/other", &format!("{all} {round}"))));
        // Refused before and after the others' addresses are read and compared.
        let refused = |url: &str, at: usize| {
            let run = self.run(&[], &deploy(all * 100 + at), url);
            assert_eq!(run.2, 1, "a refused deploy exits with 1");
            run
        };
        let taken = format!("http://app{}.example.com", all - 1);
        // in turns, so that whatever else slows the machine down slows both
        let pairs = (0..RUNS).map(|at| {
            let (before, after) = (refused("nothing {", 2 * at), refused(&taken, 2 * at + 1));
            (after.0 - before.0, after.1)
        });
        print("addresses checked", pairs.collect());
        let answers = (0..RUNS).map(|_| {
            let begun = Instant::now();
            agent.call("GET", "kv/app/?recurse&consistent", "").unwrap();
            (begun.elapsed().as_secs_f64() * 1000.0, 0)
        });
        print("of it Consul's answer", answers.collect());
    }
}
