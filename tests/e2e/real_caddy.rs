//! A real Caddy behind its socket, for those who attack routes: `CADDY` names it (.ci/caddy).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::world::outside::{Invocation, World};
use crate::world::{Cluster, event, id};

pub struct Caddy {
    pub process: Child,
    pub socket: PathBuf,
}

impl Drop for Caddy {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub fn program() -> String {
    std::env::var("CADDY").unwrap_or_else(|_| panic!("CADDY names no Caddy; .ci/caddy prints one"))
}

pub fn caddy(w: &World, node: &str) -> Caddy {
    let dir = w.deploy_dir(node).parent().unwrap().to_path_buf();
    let socket = dir.join("caddy.sock");
    let mut command = Command::new(program());
    command.arg("run").env("CADDY_ADMIN", format!("unix/{}|0600", socket.display()));
    command.env("XDG_DATA_HOME", dir.join("xdg")).env("XDG_CONFIG_HOME", dir.join("xdg")).env("SECRET", "of-the-proxy");
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let caddy = Caddy { process, socket };
    for _ in 0..100 {
        if caddy.socket.exists() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    caddy
}

/// Ports that a test may have.
pub fn with<'a>(w: &'a World, caddy: &Caddy, ports: u16, node: &str, args: &[&str]) -> Invocation<'a> {
    let head = w.deploy_dir(node).parent().unwrap().join("head");
    fs::write(&head, format!("{{\n    http_port {ports}\n    https_port {}\n}}\n", ports + 1)).unwrap();
    w.handler(node, args)
        .env("HANDLER_CADDY_ADMIN", &caddy.socket.display().to_string())
        .env("HANDLER_CADDY_HEAD", &head.display().to_string())
        .env("HANDLER_TIMEOUT_PROXY", "0")
        .env("XDG_DATA_HOME", &head.with_extension("xdg").display().to_string())
        .env("HANDLER_CADDY_CHECK", &json!([program(), "validate", "--config", "{path}"]).to_string())
        .env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]")
}

pub fn ask(ports: u16, host: &str, path: &str, more: &[&str]) -> String {
    let url = format!("http://127.0.0.1:{ports}{path}");
    let mut args = vec!["-s", "-m", "10", "-H"];
    let header = format!("Host: {host}");
    args.push(&header);
    args.extend(more);
    args.push(&url);
    String::from_utf8_lossy(&Command::new("curl").args(args).output().unwrap().stdout).into_owned()
}

pub fn repository(w: &World, name: &str, caddyfile: &str) -> String {
    variable(w, name, "CADDYFILE", caddyfile)
}

pub fn variable(w: &World, name: &str, variable: &str, value: &str) -> String {
    let url = format!("file:///repos/{name}");
    let mut text = format!("services:\n  web:\n    image: cache:1\n    restart: unless-stopped\n    environment:\n      {variable}: |\n");
    value.lines().for_each(|line| text.push_str(&format!("        {line}\n")));
    w.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    w.commit(&url, "master", &[("docker-compose.yml", &text)]);
    url
}

pub fn deploy(w: &World, caddy: &Caddy, ports: u16, word: &str, url: &str) -> (crate::world::Run, Value) {
    let payload = json!({"repo": url, "branch": "master", "master": "node1"});
    let run = with(w, caddy, ports, "node1", &[]).stdin(&json!([event(word, "deploy", &payload)]).to_string()).run();
    let key = w.keys("history/").into_iter().find(|key| key.ends_with(&id(word)));
    let ended = key.and_then(|key| w.kv(&key)).unwrap_or_default();
    (run, ended)
}

pub fn routes(w: &World, caddy: &Caddy, ports: u16) -> crate::world::Run {
    with(w, caddy, ports, "node1", &["routes"]).run()
}
