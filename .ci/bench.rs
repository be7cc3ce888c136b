//! Speed and memory of dist/handler against a real development agent of Consul, printed, not judged (`make bench`).
//! Called as `git` or `docker` it is the stand-in that returns at once and notes how it was called.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::zombie_processes)] // wait4 reaps

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const ADDRESS: &str = "127.0.0.1:18500";
const COMMIT: &str = "1111111111111111111111111111111111111111";

fn main() {
    let me = std::env::args().next().unwrap();
    let name = Path::new(&me).file_name().unwrap().to_str().unwrap().to_string();
    if name == "git" || name.starts_with("docker") {
        let words: Vec<String> = std::env::args().skip(1).collect();
        stand_in(&words);
        if let Ok(calls) = std::env::var("BENCH_CALLS") {
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
    let agent = Agent::start(&consul, &work);
    let bench = Bench { handler, work: work.clone() };
    println!("{:44} {:>9} {:>10}", "", "ms", "peak KiB");
    println!("{:44} {:>9} {:>10}", "size of the binary: KiB", fs::metadata(&bench.handler).unwrap().len() / 1024, "");
    bench.median("idle: []", "[]", 200);
    let events = events();
    bench.run(&[], &events, ""); // makes them known
    bench.median("256 known events", &events, 100);
    bench.redeploy();
    agent.put_records(0..1000);
    bench.median("idle with 1000 applications of other nodes", "[]", 100);
    for (begin, all) in [(1000, 5000), (5000, 10_000)] {
        agent.put_records(begin..all);
        bench.many(&agent, all);
    }
    drop(agent);
    fs::remove_dir_all(&work).unwrap();
}

/// What docker and git answer for an application without data.
fn stand_in(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["clone", .., folder] => {
            fs::create_dir_all(folder).unwrap();
            let more = std::env::var("BENCH_COMPOSE").unwrap_or_default();
            fs::write(Path::new(folder).join("docker-compose.yml"), format!("services:\n  web:\n    build: .\n{more}")).unwrap();
        }
        ["info", ..] => println!("docker-compose"),
        ["rev-parse", ..] => println!("{COMMIT}"),
        ["ps", ..] => println!("0123456789ab"),
        ["inspect", ..] => println!(
            r#"[{{"Id":"0123456789ab","Name":"/web","Image":"sha256:1","RestartCount":0,"State":{{"Status":"running","StartedAt":"2020-01-01T00:00:00Z"}},
            "Config":{{"Image":"web","Labels":{{"com.docker.compose.service":"web"}}}}}}]"#
        ),
        _ => {}
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

/// With three addresses.
fn record(at: usize) -> String {
    let domains = ["", "www.", "shop."].map(|sub| format!("{sub}app{at}.example.com"));
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
            let records: Vec<String> = batch.iter().copied().map(record).collect();
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
    handler: std::path::PathBuf,
    work: std::path::PathBuf,
}

impl Bench {
    /// Time in ms, peak memory in KiB, exit status.
    fn run(&self, args: &[&str], input: &str, compose: &str) -> (f64, i64, i32) {
        let path = format!("{}:{}", self.work.join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(&self.handler);
        command.env("PATH", path).env("DEPLOY_DIR", self.work.join("deploy")).env("CONSUL_HTTP_ADDR", ADDRESS).env("HANDLER_SETTLE", "0");
        command.env("BENCH_CALLS", self.work.join("calls")).env("BENCH_COMPOSE", compose);
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
        let (mut over, mut commands, mut peak) = (Vec::new(), 0, 0);
        for at in 0..30 {
            fs::write(self.work.join("calls"), "").unwrap();
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
                over.push(ms - begun.elapsed().as_secs_f64() * 1000.0);
                commands = calls.lines().count();
                peak = peak.max(memory);
            }
        }
        println!("{:44} {:9.2} {peak:10}", format!("redeploy, over its {commands} commands' own time"), middle(over.into_iter()));
    }

    /// With `all` applications of other nodes.
    fn many(&self, agent: &Agent, all: usize) {
        let print = |what: &str, (ms, peak, status): (f64, i64, i32), wanted| {
            assert_eq!(status, wanted, "{what}: {}", fs::read_to_string(self.work.join("deploy/handler.log")).unwrap());
            println!("{:44} {ms:9.2} {peak:10}", format!("{all} applications: {what}"));
        };
        print("routes written", self.run(&["routes"], "", ""), 0);
        print("routes, nothing changed", self.run(&["routes"], "", ""), 0);
        agent.put("kv/other", &all.to_string());
        print("routes, another key changed", self.run(&["routes"], "", ""), 0);
        // Refused before and after the others' addresses are read and compared.
        let label = |url: &str| format!("    environment:\n      CADDYFILE: \"{url} {{\\n proxy / $CONTAINER:80\\n}}\"\n");
        let refused = |url: &str, at: usize| {
            let run = self.run(&[], &deploy(all * 100 + at), &label(url));
            assert_eq!(run.2, 1, "a refused deploy exits with 1");
            run
        };
        let taken = format!("http://app{}.example.com", all - 1);
        // in turns, so that whatever else slows the machine down slows both
        let pair = |at: usize| {
            let before = refused("nothing {", 2 * at);
            if at == 0 {
                fs::remove_file(self.work.join("deploy/.handler/records")).unwrap();
            }
            (before, refused(&taken, 2 * at + 1))
        };
        let pairs: Vec<_> = (0..15).map(pair).collect();
        let peak = pairs.iter().map(|(_, after)| after.1).max().unwrap();
        let answers = (0..9).map(|_| {
            let begun = Instant::now();
            agent.call("GET", "kv/app/?recurse&consistent", "").unwrap();
            begun.elapsed().as_secs_f64() * 1000.0
        });
        print("Consul's answer with all of them", (middle(answers), 0, 0), 0);
        let first = pairs[0].1.0 - pairs[0].0.0;
        print("addresses checked, all records read", (first, 0, 0), 0);
        print(
            "addresses checked, with the records kept",
            (middle(pairs.iter().skip(1).map(|(before, after)| after.0 - before.0)), peak, 0),
            0,
        );
    }
}
