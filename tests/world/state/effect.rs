//! One call of a handler to its world: what it is called in the log, and what comes of it.

use std::collections::BTreeMap;
use std::path::Path;

use handler::settings::CREDENTIAL;

use super::http::{Request, Response};
use super::{Files, Out, State, compose, consul, docker, engine, git, plugin, script};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Consul,
    Plugin,
    Engine,
    Process,
    /// Never in the log: too many, and of no interest to others.
    Disk,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub node: String,
    pub kind: Kind,
    /// The program with its verb, or the call: `git clone`, `Snapshot.Send`, `stop`, `GET kv`.
    pub what: String,
    /// It changes nothing.
    pub is_read: bool,
    /// In words that stay the same from one run to the next.
    pub line: String,
}

/// Who is called, with what.
#[derive(Clone, Copy)]
pub enum Call<'a> {
    Consul(&'a Request),
    Plugin(&'a Request),
    Engine(&'a Request),
    /// `env`: what the handler has put into its environment.
    Process {
        argv: &'a [&'a str],
        cwd: &'a Path,
        env: &'a BTreeMap<String, String>,
    },
}

#[derive(Debug)]
pub enum Reply {
    Http(Response),
    Out(Out),
}

impl Call<'_> {
    pub fn kind(&self) -> Kind {
        match self {
            Call::Consul(_) => Kind::Consul,
            Call::Plugin(_) => Kind::Plugin,
            Call::Engine(_) => Kind::Engine,
            Call::Process { .. } => Kind::Process,
        }
    }

    pub fn effect(&self, s: &State, node: &str) -> Effect {
        let (what, is_read, line) = match self {
            Call::Consul(request) => {
                let mut parts = request.path.trim_start_matches("/v1/").split('/');
                let first = parts.next().unwrap_or_default();
                let what = if first == "agent" { format!("{first}/{}", parts.next().unwrap_or_default()) } else { first.to_owned() };
                (format!("{} {what}", request.method), request.method == "GET", consul::describe(request))
            }
            Call::Plugin(request) => {
                let call = request.path.trim_start_matches("/VolumeDriver.").split('/').next().unwrap_or_default();
                (call.to_owned(), plugin::is_read(request), plugin::describe(request))
            }
            Call::Engine(request) => {
                let line = engine::describe(s, node, request);
                let what = line.trim_start_matches("engine ").split(' ').next().unwrap_or_default();
                (what.to_owned(), request.method == "GET", line)
            }
            Call::Process { argv, .. } => {
                let line = argv.iter().map(|a| s.nodes[node].engine.readable(a)).collect::<Vec<_>>().join(" ");
                let (what, is_read) = verb(argv);
                (what, is_read, line)
            }
        };
        Effect { node: node.to_owned(), kind: self.kind(), what, is_read, line: mask(&line, &s.root) }
    }

    /// What comes of it; None where a reader waits for a change and there is none.
    pub fn answer(&self, s: &mut State, files: &mut dyn Files, node: &str, patient: bool) -> Option<Reply> {
        Some(match self {
            Call::Consul(request) => Reply::Http(consul::answer(s, node, request, patient)?),
            Call::Plugin(request) => Reply::Http(plugin::answer(s, node, request)),
            Call::Engine(request) => Reply::Http(engine::answer(s, node, request)),
            Call::Process { argv, cwd, env } => Reply::Out(match argv[0] {
                "git" => git::run(s, files, &argv[1..], cwd, env.get(CREDENTIAL).map(String::as_str)),
                "docker" => docker::run(s, node, &argv[1..]),
                "ssh" => s.ssh(node, &argv[1..]),
                "docker-compose" => compose::run(s, files, node, &argv[1..], cwd, env),
                _ => script::run(s, files, node, &argv[1..], cwd, env),
            }),
        })
    }

    /// The answer of one that talks nonsense.
    pub fn garbled(&self, text: &str) -> Reply {
        match self {
            Call::Process { .. } => Reply::Out(Out::ok(text)),
            _ => Reply::Http(Response::new(200, text)),
        }
    }

    /// The answer of one that could not do it.
    pub fn failed(&self, text: &str) -> Reply {
        match self {
            Call::Consul(_) => Reply::Http(Response::new(500, text)),
            Call::Plugin(_) => Reply::Http(plugin::error(text)),
            Call::Engine(_) => Reply::Http(engine::error(500, text)),
            Call::Process { .. } => Reply::Out(Out::fail(1, text)),
        }
    }
}

/// The program with its verb, and whether that only asks.
fn verb(argv: &[&str]) -> (String, bool) {
    if argv[0] == "ssh" {
        return (argv[0].to_owned(), true); // it is only asked for the time
    }
    let words = argv.iter().skip(1);
    let mut plain = words.scan(false, |value, word| {
        let option = word.starts_with('-');
        let skipped = option || std::mem::take(value);
        *value = ["-p", "-f", "-C", "-c", "--project-directory", "--env-file", "--profile"].contains(word);
        Some((!skipped).then_some(*word))
    });
    let verb = plain.find_map(|word| word).unwrap_or_default();
    let reads = ["rev-parse", "ls-remote", "version", "ps", "inspect", "image", "info", "logs", "config"];
    let is_read = reads.contains(&verb) || argv.windows(2).any(|pair| pair == ["volume", "ls"]);
    (format!("{} {verb}", argv[0]), is_read)
}

/// Paths and times away, so that a line is the same in every run.
fn mask(line: &str, root: &Path) -> String {
    let root = format!("{}/", root.display());
    let mut out = String::new();
    for word in line.replace(if root == "/" { "//" } else { &root }, "").split(' ') {
        let word = word.split_once('/').filter(|(_, rest)| rest.starts_with("deploy/")).map_or(word, |(_, rest)| rest);
        let (head, time) = word.split_once("@20").unwrap_or((word, ""));
        let host = time.split_once('@').map(|(_, h)| format!("@{h}")).unwrap_or_default();
        let time = if time.is_empty() { "" } else { "@TIME" };
        out += &format!("{}{head}{time}{host}", if out.is_empty() { "" } else { " " });
    }
    out
}
