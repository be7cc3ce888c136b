//! `sh SCRIPT …`: the scripts of the tests' repositories say `echo TEXT`, `show VARIABLE`, `write VOLUME TEXT` and `exit N`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Files, Out, State};

pub fn run(s: &mut State, files: &dyn Files, node: &str, args: &[&str], cwd: &Path, given: &BTreeMap<String, String>) -> Out {
    let script = args.first().unwrap_or(&"?");
    let Some(text) = files.read(&cwd.join(script)) else {
        return Out::fail(127, &format!("sh: {script}: not found"));
    };
    let env = files.read(&cwd.join(".env")).unwrap_or_default();
    let project = env.lines().rev().find_map(|l| l.strip_prefix("COMPOSE_PROJECT_NAME=")).unwrap_or("no_project_name_in_.env");
    let mut out = Out::ok("");
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["exit", n] => {
                return Out { status: n.parse().unwrap(), ..out };
            }
            ["show", name] => out.stderr += &format!("{name} is {}\n", given.get(name).map_or("not set", |value| value)),
            ["write", volume, text] => s.append(node, &format!("{project}_{volume}"), text),
            _ => out.stderr += &format!("{}\n", line.trim_start_matches("echo ")),
        }
    }
    out
}
