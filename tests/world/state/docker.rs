//! The engine by its client `docker`: what the handler used before it spoke to the socket, for clusters in which both versions run.

use serde_json::{Value, json};

use super::engine::{Container, PROJECT};
use super::{Out, State};

pub fn run(s: &mut State, node: &str, args: &[&str]) -> Out {
    match args {
        ["info", "--format", _] => Out::ok("docker-compose\n"),
        ["ps", rest @ ..] => {
            let (all, project) = (rest.iter().any(|a| a.starts_with("-a")), project_of(rest));
            let found = s.engine(node).containers.iter().filter(|c| c.project == project && (all || c.running));
            Out::ok(found.map(|c| c.id.clone() + "\n").collect::<String>())
        }
        ["image", "inspect", "--format", _, references @ ..] | ["image", "inspect", references @ ..] => {
            let e = s.engine(node);
            let found = references.iter().filter_map(|r| {
                let id = e.image(r)?;
                Some(json!({"Id": id, "RepoTags": e.tags_of(id)}))
            });
            listed(found.collect(), references, "Error response from daemon: No such image")
        }
        ["inspect", ids @ ..] => {
            let all = &mut s.engine(node).containers;
            let found = all.iter_mut().filter(|c| ids.contains(&c.id.as_str()) || ids.contains(&c.name.as_str()));
            listed(found.map(Container::inspect).collect(), ids, "Error: No such object")
        }
        ["tag", id, reference] => match s.engine(node).give_tag(id, reference) {
            Ok(()) => Out::ok(""),
            Err(text) => refused(&text),
        },
        ["start", ids @ ..] => {
            for id in ids {
                let started = match s.engine(node).containers.iter().position(|c| c.id == *id || c.name == *id) {
                    Some(i) => s.start(node, i),
                    None => Err(format!("No such container: {id}")),
                };
                if let Err(text) = started {
                    return refused(&text);
                }
            }
            Out::ok(ids.join("\n"))
        }
        ["stop", ids @ ..] => each(s, node, ids, |s, i| s.stop(node, i)),
        ["update", "--restart=no", ids @ ..] => each(s, node, ids, |s, i| s.engine(node).containers[i].restart = "no".to_owned()),
        // Killed, not stopped: without a last write.
        ["rm", "--force", ids @ ..] => each(s, node, ids, |s, i| drop(s.engine(node).containers.remove(i))),
        ["logs", "--tail", _, _] => Out { stderr: "last words\n".to_owned(), ..Out::ok("") },
        ["volume", "ls", "-q", rest @ ..] => {
            let project = project_of(rest);
            let found = s.engine(node).volumes.iter().filter(|(_, made)| made.project == project);
            Out::ok(found.map(|(name, _)| format!("{name}\n")).collect::<String>())
        }
        ["volume", "rm", names @ ..] => {
            for name in names {
                if let Err(text) = s.remove_engine_volume(node, name) {
                    return refused(&text);
                }
            }
            Out::ok("")
        }
        _ => Out::fail(125, &format!("stand-in: no such docker command: {args:?}")),
    }
}

fn refused(text: &str) -> Out {
    Out::fail(1, &format!("Error response from daemon: {text}"))
}

fn project_of(args: &[&str]) -> String {
    let prefix = format!("label={PROJECT}=");
    args.iter().find_map(|a| a.strip_prefix(&prefix)).unwrap_or("?").to_owned()
}

fn listed(found: Vec<Value>, wanted: &[&str], missing: &str) -> Out {
    let all = found.len() == wanted.len();
    let stderr = if all { String::new() } else { format!("{missing}: {}\n", wanted.join(" ")) };
    Out { stdout: Value::from(found).to_string(), stderr, status: u8::from(!all) }
}

pub fn each(s: &mut State, node: &str, ids: &[&str], act: impl Fn(&mut State, usize)) -> Out {
    for id in ids {
        match s.engine(node).containers.iter().position(|c| c.id == *id || c.name == *id) {
            Some(i) => act(s, i),
            None => {
                return refused(&format!("No such container: {id}"));
            }
        }
    }
    Out::ok(ids.join("\n"))
}
