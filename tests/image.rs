//! The handler in its image, started by a real Consul agent, on this machine's Docker engine (`make test` builds what it needs).
//! They print what they measure, and judge only what is to be found.
#![cfg(feature = "engine")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)] // a test stops at the first surprise

mod client;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use client::Client;
use serde_json::{Value, json};

const IMAGE: &str = "handler-consul:latest";
const SOON: Duration = Duration::from_secs(120);

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(start.elapsed() < SOON, "{what}: not within {} s", SOON.as_secs()),
        }
        sleep(Duration::from_millis(50));
    }
}

/// An agent in the image, with one repository of the test application. Gone with all it started when dropped.
struct Agent {
    name: String,
    work: PathBuf,
    port: u16,
    project: String,
    /// Of the versions that were seen running: compose leaves them, without a name, when it builds the next.
    images: Vec<String>,
}

impl Agent {
    fn start(test: &str) -> Agent {
        // Events have to stay short, the repository's path included.
        let work = PathBuf::from(format!("/tmp/handler-{}-{test}", std::process::id()));
        // As the engine makes it, for root: the agent runs as another user.
        let proxies = work.join("proxies");
        std::fs::create_dir_all(&proxies).unwrap();
        std::fs::write(work.join("gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let agent =
            Agent { name: format!("handler-test-{test}-{}", std::process::id()), port, project: String::new(), images: Vec::new(), work };
        let (work, gitconfig) = (agent.work.display(), format!("{}/gitconfig:/etc/gitconfig:ro", agent.work.display()));
        let (mount, deploy) = (format!("{work}:{work}"), format!("DEPLOY_DIR={work}"));
        let socket = "/var/run/docker.sock:/var/run/docker.sock";
        let (health, proxies) = ("HANDLER_TIMEOUT_HEALTH=20", format!("HANDLER_PROXIES_DIR={}", proxies.display()));
        let options = ["-v", socket, "-v", &*mount, "-v", &*gitconfig, "-e", &*deploy, "-e", health, "-e", &*proxies];
        let command = [IMAGE, "agent", "-dev", "-node=node1", "-log-level=warn"];
        ok("docker", &[&["run", "-d", "--name", &agent.name, "--hostname", "node1"], &options[..], &command].concat());
        wait_until("a leader", || agent.try_consul(&["kv", "put", "ready", "yes"]));
        wait_until("a file for haproxy", || agent.work.join("proxies/haproxy.cfg").exists().then_some(()));
        agent
    }

    fn try_consul(&self, args: &[&str]) -> Option<String> {
        let output = run("docker", &[&["exec", &self.name, "consul"], args].concat());
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_string())
    }

    fn consul(&self, args: &[&str]) -> String {
        self.try_consul(args).unwrap_or_else(|| panic!("consul {args:?}"))
    }

    /// The handler as a person runs it, as the agent's user.
    fn handler(&self, args: &[&str]) -> Output {
        self.handler_of("consul", args)
    }

    fn handler_of(&self, user: &str, args: &[&str]) -> Output {
        run("docker", &[&["exec", "--user", user, &self.name, "handler"], args].concat())
    }

    fn request(&self) -> Value {
        json!({ "repo": format!("file://{}/app", self.work.display()), "branch": "main", "master": "node1" })
    }

    fn commit(&self, variant: &str) {
        let root = env!("CARGO_MANIFEST_DIR");
        let repo = self.work.join("app");
        ok(&format!("{root}/testapp/repo"), &[variant, repo.to_str().unwrap(), &self.port.to_string()]);
    }

    /// On top of the last variant.
    fn commit_files(&self, files: &[(&str, &str)]) {
        let repo = self.work.join("app");
        for (name, text) in files {
            std::fs::create_dir_all(repo.join(name).parent().unwrap()).unwrap();
            std::fs::write(repo.join(name), text).unwrap();
        }
        let repo = ["-C", repo.to_str().unwrap(), "-c", "user.name=testapp", "-c", "user.email=testapp@example.com"];
        ok("git", &[&repo[..], &["add", "-A"]].concat());
        ok("git", &[&repo[..], &["commit", "-q", "-m", "more"]].concat());
    }

    /// As the agent's user.
    fn in_agent(&self, script: &str) -> String {
        ok("docker", &["exec", "--user", "consul", &self.name, "sh", "-c", script])
    }

    /// The folder of the only one that there is.
    fn checkout(&self) -> String {
        self.in_agent(&format!("ls -d {}/app_main.*-*", self.work.display()))
    }

    fn fire(&mut self, request: &Value) -> Value {
        let fired = self.consul(&["event", "-name", "deploy", &request.to_string()]);
        let id = fired.rsplit(' ').next().unwrap().to_string();
        self.outcome(&id)
    }

    /// The order, once it is in the history.
    fn outcome(&mut self, id: &str) -> Value {
        let key = wait_until("the order's end", || {
            let keys = self.try_consul(&["kv", "get", "-keys", "-separator=", "history/"])?;
            keys.lines().find(|key| key.ends_with(id)).map(String::from)
        });
        let order: Value = serde_json::from_str(&self.consul(&["kv", "get", &key])).unwrap();
        let name = order["name"].as_str().unwrap();
        self.project = name.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).collect();
        for container in self.of_project(&["ps", "-a"]) {
            // It may have gone in between.
            let inspected = run("docker", &["inspect", "--format", "{{.Image}}", &container]);
            self.images.push(String::from_utf8(inspected.stdout).unwrap().trim().to_string());
        }
        order
    }

    fn deploy(&mut self, variant: &str) -> Value {
        self.commit(variant);
        let request = self.request();
        self.fire(&request)
    }

    fn get(&self, path: &str) -> Option<String> {
        client::get(local(self.port), path)
    }

    fn version(&self) -> Option<String> {
        self.get("/version").map(|body| body.trim().to_string())
    }

    fn record(&self, order: &Value) -> String {
        self.consul(&["kv", "get", "-detailed", &format!("app/{}", order["name"].as_str().unwrap())])
    }

    fn of_project(&self, what: &[&str]) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let listed = ok("docker", &[what, &["-q", "--filter", &filter]].concat());
        listed.lines().map(String::from).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.work.join("handler.log")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            let output = run("docker", &["logs", &self.name]);
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            eprintln!("{}", std::fs::read_to_string(self.work.join("handler.log")).unwrap_or_default());
        }
        // Checkouts belong to the agent's user. What is not there need not go: only what fails for another reason shows up as a leftover.
        run("docker", &["exec", "--user", "root", &self.name, "find", self.work.to_str().unwrap(), "-mindepth", "1", "-delete"]);
        run("docker", &["rm", "-f", "-v", &self.name]);
        if !self.project.is_empty() {
            for (list, remove) in
                [(&["ps", "-a"][..], &["rm", "-f"][..]), (&["volume", "ls"], &["volume", "rm"]), (&["network", "ls"], &["network", "rm"])]
            {
                for id in self.of_project(list) {
                    run("docker", &[remove, &[&*id]].concat());
                }
            }
            for between in ["-", "_"] {
                let named = format!("{}{between}web", self.project);
                run("docker", &["image", "rm", "-f", &named]);
            }
            for image in self.images.iter().filter(|image| !image.is_empty()) {
                run("docker", &["image", "rm", image]);
            }
        }
        run("rm", &["-rf", self.work.to_str().unwrap()]);
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[track_caller]
fn assert_done(order: &Value) {
    assert_eq!((&order["state"], &order["reason"]), (&json!("done"), &Value::Null), "{order:#}");
}

/// First deploy, redeploy, and versions of every kind that does not work.
#[test]
fn replaces_what_runs_or_leaves_it_serving() {
    let broken: [(&str, &[&str]); 5] = [
        ("broken-build", &["docker-compose -p ", " build` exited with", "its last lines:\n"]),
        ("dies", &["the container ", "EXIT_AFTER"]),
        ("unhealthy", &["the container ", "is unhealthy"]),
        ("no-image", &["docker-compose -p ", " pull ", "exited with"]),
        ("bad-compose", &["docker-compose.yml: "]),
    ];
    let mut agent = Agent::start("whole");
    let first = agent.deploy("v1");
    assert_done(&first);
    assert_eq!(agent.version().as_deref(), Some("1"));
    assert!(client::ask(local(agent.port), "POST /note HTTP/1.0\r\nContent-Length: 4\r\n\r\nkept").is_some());

    let client = Client::start([local(agent.port)]);
    let second = agent.deploy("v2");
    let redeploy = client.stop().outage;
    assert_done(&second);
    assert_eq!(agent.version().as_deref(), Some("2"));
    assert_eq!(agent.get("/note").as_deref(), Some("kept"));
    // What of it is the container's own stop and start.
    let client = Client::start([local(agent.port)]);
    ok("docker", &["restart", &agent.of_project(&["ps"])[0]]);
    wait_until("the restarted container", || agent.version());
    let restart = client.stop().outage;
    println!("without an answer: {redeploy:.2?} in a redeploy, {restart:.2?} while Docker restarts the container");

    let record = agent.record(&second);
    let service = agent.consul(&["catalog", "services"]);
    assert!(service.lines().any(|line| line == second["name"].as_str().unwrap()), "{service}");
    for (variant, quoted) in broken {
        let failed = agent.deploy(variant);
        assert_eq!(failed["state"], "failed", "{variant}: {failed:#}");
        let reason = failed["reason"].as_str().unwrap();
        for text in quoted {
            assert!(reason.contains(text), "{variant}: {reason:?} does not say {text:?}");
        }
        wait_until(&format!("{variant}: the old version"), || agent.version().filter(|version| version == "2"));
        assert_eq!(agent.get("/note").as_deref(), Some("kept"), "{variant}");
        assert_eq!(agent.record(&second), record, "{variant}");
        assert_eq!(agent.consul(&["kv", "get", "-keys", "maintenance/"]), "", "{variant}");
        assert_eq!(agent.of_project(&["ps", "-a"]).len(), 1, "{variant}");
    }
}

/// What the handler itself calls, and what applications' scripts and operators do.
#[test]
fn compose_is_there_under_both_names() {
    for command in ["docker-compose version --short", "docker compose version --short"] {
        let version = ok("docker", &["run", "--rm", IMAGE, "sh", "-c", command]);
        let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
        assert!(major.is_some_and(|major| major >= 2), "{command}: {version}");
    }
}

/// Variables, includes, what is extended and override files: what compose makes of them is what is checked, kept, run and shown.
#[test]
fn the_compose_file_is_what_compose_makes_of_it() {
    let mut agent = Agent::start("seen");
    agent.commit("v1");
    let file = std::fs::read_to_string(agent.work.join("app/docker-compose.yml")).unwrap();
    let main = file.replace("driver: local", "driver: ${DRIVER}").replace("version: \"2.4\"", "include: [more.yml]");
    assert!(main.contains("${DRIVER}") && main.contains("include"), "{main}");
    agent.commit_files(&[
        ("docker-compose.yml", &main),
        (".env", "DRIVER=local\nSEEN=by variable\n"),
        ("base.yml", "services: {base: {build: ., restart: unless-stopped, environment: {VERSION: '7'}, labels: {price: '5$$', variable: '${SEEN}'}}}\n"),
        ("more.yml", "services: {more: {extends: {file: base.yml, service: base}, volumes: ['more:/data']}}\nvolumes: {more: {driver: '${DRIVER}'}}\n"),
        ("docker-compose.override.yml", "services: {web: {labels: {seen: by override}}}\n"),
    ]);
    let request = agent.request();
    assert_done(&agent.fire(&request));
    assert_eq!(agent.version().as_deref(), Some("1"));
    let label = |service: &str, label: &str| {
        let format = format!("{{{{index .Config.Labels \"{label}\"}}}}");
        ok("docker", &["inspect", "--format", &format, &format!("{}-{service}-1", agent.project)])
    };
    assert_eq!(
        (label("web", "seen"), label("more", "variable"), label("more", "price")),
        ("by override".into(), "by variable".into(), "5$".into())
    );
    let checkout = agent.checkout();
    let kept: Value = serde_json::from_str(&agent.in_agent(&format!("cat {checkout}/.handler-compose.json"))).unwrap();
    assert_eq!((&kept["volumes"]["data"]["driver"], &kept["volumes"]["more"]["driver"]), (&json!("local"), &json!("local")));
    assert_eq!(agent.in_agent(&format!("stat -c %a {checkout}/.handler-compose.json")), "600");
    let status = String::from_utf8(agent.handler(&["status"]).stdout).unwrap();
    let ordinary = format!("volumes NOT protected, kept on the node where they are: {0}_data, {0}_more", agent.project);
    assert!(status.contains(&ordinary), "{status}");
}

/// Containers that a handler made which resolved nothing are started again as they are.
#[test]
fn an_older_checkout_is_not_made_anew() {
    let mut agent = Agent::start("older");
    agent.commit("v1");
    let file = std::fs::read_to_string(agent.work.join("app/docker-compose.yml")).unwrap();
    let route = "VERSION: \"1\"\n      CADDYFILE: \"http://a.example.com {\\n reverse_proxy $CONTAINER:80\\n}\"";
    let main =
        file.replace("VERSION: \"1\"", route).replace("[\"data:/data\"]", "[\"data:/data\", \"./conf:/conf\"]\n    env_file: [web.env]");
    assert!(main.contains("reverse_proxy") && main.contains("web.env"), "{main}");
    agent.commit_files(&[("docker-compose.yml", &main), ("web.env", "PLAIN=1\nPRICE='5$'\n"), ("conf/x", "")]);
    let request = agent.request();
    assert_done(&agent.fire(&request));
    let (checkout, project) = (agent.checkout(), agent.project.clone());
    agent.in_agent(&format!("cd {checkout} && rm .handler-*"));
    let up = |file: &str| agent.in_agent(&format!("cd {checkout} && docker-compose -p {project} -f {file} up -d --no-build 2>&1"));
    assert!(up(&format!("{checkout}/docker-compose.yml")).contains("Recreated"), "as the older handler made it");
    let before = agent.of_project(&["ps", "-a"]);
    agent.commit("bad-update");
    let mut request = agent.request();
    request["update"] = true.into();
    let failed = agent.fire(&request);
    assert_eq!(failed["state"], "failed", "{failed:#}");
    wait_until("the old version", || agent.version().filter(|version| version == "1"));
    assert_eq!(agent.of_project(&["ps", "-a"]), before, "{}", agent.log());
    assert!(agent.in_agent(&format!("cat {checkout}/.handler-compose.json")).contains("5$$"), "resolved, and kept");
}

#[test]
fn a_failing_update_is_undone() {
    let mut agent = Agent::start("update");
    assert_done(&agent.deploy("v1"));
    agent.commit("bad-update");
    let mut request = agent.request();
    request["update"] = true.into();
    let failed = agent.fire(&request);
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("`sh update.sh -r "), "{failed:#}");
    wait_until("the old version", || agent.version().filter(|version| version == "1"));
    agent.commit("v2");
    assert_done(&agent.fire(&request));
    assert_eq!(agent.version().as_deref(), Some("2"));
}

#[test]
fn a_first_deploy_that_fails_leaves_nothing() {
    let mut agent = Agent::start("first");
    let failed = agent.deploy("dies");
    assert_eq!(failed["state"], "failed", "{failed:#}");
    wait_until("no container", || agent.of_project(&["ps", "-a"]).is_empty().then_some(()));
    wait_until("no volume", || agent.of_project(&["volume", "ls"]).is_empty().then_some(()));
    assert_eq!(agent.consul(&["kv", "get", "-keys", "app/"]), "");
    assert_eq!(agent.version(), None);
}

#[test]
fn orders_by_hand_by_key_and_told_again() {
    let mut agent = Agent::start("hand");
    agent.commit("v1");
    let request = agent.request();
    let planned = agent.handler(&["plan", "deploy", &request.to_string()]);
    assert!(String::from_utf8_lossy(&planned.stdout).contains("await-healthy"), "{planned:?}");
    assert_eq!(agent.consul(&["kv", "get", "-keys", "order/"]), "");

    let done = agent.handler(&["deploy", &request.to_string()]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(agent.version().as_deref(), Some("1"));
    agent.commit("dies");
    assert_eq!(agent.handler(&["deploy", &request.to_string()]).status.code(), Some(1));
    assert_eq!(agent.handler(&["deploy", "{}"]).status.code(), Some(2));
    let other = agent.handler_of("root", &["deploy", &request.to_string()]);
    let why = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(1) && why.contains("docker exec --user "), "{other:?}");
    assert_eq!(agent.consul(&["kv", "get", "-keys", "order/"]), "");

    // An order without its event: the watch on order/ finds it.
    agent.commit("v2");
    let id = "11111111-2222-3333-4444-555555555555";
    let keys = agent.consul(&["kv", "get", "-keys", "app/"]);
    let order = json!({"id": id, "name": keys.trim_start_matches("app/"), "request": {"deploy": request}, "state": "open", "created": "2100-01-01T00:00:00Z"});
    agent.consul(&["kv", "put", &format!("order/{id}"), &order.to_string()]);
    assert_done(&agent.outcome(id));
    assert_eq!(agent.version().as_deref(), Some("2"));

    // All events again.
    assert_done(&agent.fire(&request));
    let seen = |agent: &Agent| {
        let orders = agent.consul(&["kv", "get", "-keys", "-separator=", "history/"]);
        (agent.log().matches("ordered: deploy").count(), orders, agent.of_project(&["ps"]))
    };
    let before = seen(&agent);
    agent.consul(&["reload"]);
    sleep(Duration::from_secs(3));
    assert_eq!(seen(&agent), before);
}
