//! A git server that asks who comes: the real git, with the real handler as its helper. And who may read the handler's own files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::world::outside::World;
use crate::world::{Cluster as _, event};
use crate::{all_well, compose, deploy, deployed, shop};

const SECRET: &str = "s3cr@t";

fn git(folder: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=master"]).args(args);
    let output = command.current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Serves the repositories below a folder to whoever says `user:password`; a kept list of the command lines, meanwhile, that have the secret.
fn serve(root: PathBuf, login: &str, seen: Arc<Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, wanted) = (listener.local_addr().unwrap().port(), format!("Basic {}", STANDARD.encode(login)));
    thread::spawn(move || {
        for stream in listener.incoming() {
            seen.lock().unwrap().extend(command_lines().into_iter().filter(|line| line.contains(SECRET) || line.contains("s3cr%40t")));
            answer(stream.unwrap(), &root, &wanted);
        }
    });
    port
}

fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("cmdline"));
    processes.filter_map(|path| fs::read(path).ok()).map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

/// One request, by git's own CGI program.
fn answer(stream: TcpStream, root: &Path, wanted: &str) {
    let mut stream = BufReader::new(stream);
    let (mut first, mut headers) = (String::new(), BTreeMap::new());
    stream.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    let mut out = stream.into_inner();
    if header("authorization") != wanted {
        let refused = "HTTP/1.1 401 Who\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return out.write_all(refused.as_bytes()).unwrap();
    }
    let [method, target] = [0, 1].map(|at| first.split(' ').nth(at).unwrap_or_default().to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("GIT_PROTOCOL", header("git-protocol"));
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", method).env("REMOTE_USER", "bob");
    command.env("CONTENT_TYPE", header("content-type")).env("HTTP_CONTENT_ENCODING", header("content-encoding"));
    command.env("CONTENT_LENGTH", body.len().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&body).unwrap();
    let answer = child.wait_with_output().unwrap().stdout;
    let status = if answer.starts_with(b"Status: ") { "404 No" } else { "200 OK" };
    out.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n").as_bytes()).and_then(|()| out.write_all(&answer)).unwrap();
}

/// A world whose nodes have the real git, and a repository behind a server that asks; its URL from the host on.
fn with_real_git(login: &str) -> (World, String, Arc<Mutex<Vec<String>>>) {
    let w = shop(&["node1", "node2"]);
    let real = std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|folder| folder.join("git")).find(|git| git.exists());
    for node in ["node1", "node2"] {
        let standin = w.deploy_dir(node).with_file_name("bin").join("git");
        fs::remove_file(&standin).unwrap();
        std::os::unix::fs::symlink(real.as_ref().unwrap(), standin).unwrap();
        w.deliver(node, &[]).exits(0); // it says which version it is
    }
    let root = w.shared.dir.join("served");
    fs::create_dir_all(root.join("shop.git")).unwrap();
    fs::create_dir_all(root.join("work")).unwrap();
    git(&root.join("shop.git"), &["init", "--quiet", "--bare"]);
    git(&root.join("work"), &["init", "--quiet"]);
    fs::write(root.join("work/docker-compose.yml"), compose("")).unwrap();
    git(&root.join("work"), &["add", "."]);
    git(&root.join("work"), &["commit", "--quiet", "-m", "one"]);
    git(&root.join("work"), &["push", "--quiet", "../shop.git", "master"]);
    let seen = Arc::default();
    let port = serve(root, login, Arc::clone(&seen));
    (w, format!("127.0.0.1:{port}/shop"), seen)
}

fn ordered(word: &str, repo: &str) -> Value {
    event(word, "deploy", &json!({"repo": repo, "branch": "master", "master": "node1", "slave": "node2"}))
}

/// Every file below a folder.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn git_is_answered_and_nobody_else_hears_it() {
    for (login, given) in [(format!("bob:{SECRET}"), "bob:s3cr%40t@"), (format!("{SECRET}:"), "s3cr%40t@")] {
        let (w, url, seen) = with_real_git(&login);
        let mut runs = w.deliver_all(&[ordered("first", &format!("http://{given}{url}"))]);
        all_well(&runs);
        w.settle();
        let app = w.keys("app/")[0].clone();
        assert_eq!(w.kv(&app).unwrap()["repo_url"], format!("http://{url}"));
        runs.extend(w.deliver_all(&[ordered("second", &format!("http://{url}"))]));
        all_well(&runs);
        w.settle();
        assert_eq!(w.keys("order/"), [""; 0]);
        for node in ["node1", "node2"] {
            let files = below(&w.deploy_dir(node));
            let config: Vec<_> =
                files.iter().filter(|path| path.ends_with(".git/config")).map(|path| fs::read_to_string(path).unwrap()).collect();
            assert!(config.len() == 1 && config[0].contains(&format!("url = http://{url}\n")), "{config:?}");
            let has = |path: &&PathBuf| path.is_file() && String::from_utf8_lossy(&fs::read(path).unwrap()).contains("s3cr");
            assert_eq!(files.iter().find(has), None);
        }
        assert_eq!(*seen.lock().unwrap(), [""; 0]);
        let said: String = runs.iter().map(|run| format!("{}{}", run.stdout, run.stderr)).collect();
        assert!(!said.contains("s3cr"), "{said}");
        let keys = w.keys("").into_iter().filter(|key| w.kv(key).is_some_and(|value| value.to_string().contains("s3cr")));
        assert_eq!(keys.collect::<Vec<_>>(), [app.replace("app/", "credential/")]);
    }
}

#[test]
fn the_wrong_password_is_refused_without_being_told() {
    let (w, url, _) = with_real_git("bob:right");
    let payload = json!({"repo": format!("http://bob:s3cret@{url}"), "branch": "master", "master": "node1"});
    let run = w.handler("node1", &["deploy", &payload.to_string()]).run();
    run.exits(1).says("Authentication failed");
    let plan = w.handler("node1", &["plan", "deploy", &payload.to_string()]).run();
    plan.exits(0);
    let id = w.keys("history/")[0].rsplit('/').next().unwrap().to_owned();
    let cancel = w.handler("node1", &["cancel", &id]).run();
    let usage = w.handler("node1", &["deploy", "{}", &payload.to_string()]).run();
    for run in [&run, &plan, &cancel, &usage] {
        assert!(!run.stdout.contains("s3cret") && !run.stderr.contains("s3cret"), "{run}");
    }
    let history = w.kv(&w.keys("history/")[0]).unwrap().to_string();
    assert!(!history.contains("s3cret"), "{history}");
    let log = fs::read_to_string(w.deploy_dir("node1").join("handler.log")).unwrap();
    assert!(!log.contains("s3cret"), "{log}");
}

/// As git speaks to a helper.
#[test]
fn the_helper_answers_for_its_server_alone_and_keeps_nothing() {
    let w = shop(&["node1"]);
    let ask = |verb: &str, asked: &str| {
        let handler = w.handler("node1", &["credential", verb]).env("HANDLER_CREDENTIAL", "https://git.example.com\nbob\ns3cret");
        let run = handler.stdin(asked).run();
        run.exits(0);
        run.stdout
    };
    let own = "protocol=https\nhost=git.example.com\n\n";
    assert_eq!(ask("get", own), "username=bob\npassword=s3cret\n");
    assert_eq!(ask("get", "protocol=https\nhost=evil.example.com\n\n"), "");
    assert_eq!((ask("store", own), ask("erase", own)), (String::new(), String::new()));
    assert_eq!(w.handler("node1", &["credential", "get"]).stdin(own).run().stdout, "", "without one");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Files of the handler that others may read, but what is for the proxies.
fn open_to_others(w: &World) -> Vec<PathBuf> {
    let deploy_dir = w.deploy_dir("node1");
    let own = deploy_dir.join(".handler");
    let all = below(&own).into_iter().chain([own.clone(), deploy_dir.join("handler.log")]);
    all.filter(|path| !path.starts_with(own.join("proxies")) && mode(path) != if path.is_dir() { 0o700 } else { 0o600 }).collect()
}

#[test]
fn the_handlers_files_are_its_users_alone() {
    let w = deployed(&["node1"], "node1", None);
    w.handler("node1", &["routes"]).run().exits(0);
    let deploy_dir = w.deploy_dir("node1");
    assert!(below(&deploy_dir.join(".handler")).len() > 4);
    assert_eq!(open_to_others(&w), [""; 0].map(PathBuf::from));
    // The proxies run as other users, and so may an application that has a folder of its checkout mounted.
    let proxies = deploy_dir.join(".handler/proxies");
    assert_eq!((mode(&proxies), mode(&proxies.join("haproxy.cfg"))), (0o755, 0o644));
    let checkout =
        fs::read_dir(&deploy_dir).unwrap().flatten().find(|entry| entry.file_name().to_string_lossy().starts_with("shop_")).unwrap();
    assert_eq!(mode(&checkout.path()), 0o755);
    // What an older handler has left open.
    for path in below(&deploy_dir.join(".handler")).iter().chain([&deploy_dir.join(".handler"), &deploy_dir.join("handler.log")]) {
        fs::set_permissions(path, fs::Permissions::from_mode(if path.is_dir() { 0o755 } else { 0o644 })).unwrap();
    }
    w.deliver("node1", &[deploy("second", "node1", None)]).exits(0);
    assert_eq!(open_to_others(&w), [""; 0].map(PathBuf::from));
    assert_eq!((mode(&proxies), mode(&proxies.join("haproxy.cfg"))), (0o755, 0o644));
}
