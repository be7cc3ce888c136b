//! What holds of the sources as a whole: the arrows between rooms run one way, no file is too long to be read, errors keep their kind,
//! and the world is reached by the doors alone.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const MOST_LINES: usize = 700;
const MOST_TEXT_ERRORS: usize = 10;

/// Path below `src` → text.
fn sources() -> BTreeMap<String, String> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => below(&path, found),
                path => found.push(path),
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    below(&src, &mut found);
    let name = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().to_string();
    let sources: BTreeMap<String, String> = found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect();
    // What is there for tests alone is no part of the house.
    let for_tests = |file: &String| {
        let (folder, stem) = file.trim_end_matches(".rs").rsplit_once('/').unwrap_or(("", file));
        let page = sources.get(&format!("{folder}/mod.rs")).map_or("", String::as_str);
        let mut lines = page.lines().zip(page.lines().skip(1));
        lines.any(|(before, line)| before == "#[cfg(test)]" && line.ends_with(&format!("mod {stem};")))
    };
    let sources: BTreeMap<String, String> =
        sources.iter().filter(|(file, _)| !for_tests(file)).map(|(f, t)| (f.clone(), t.clone())).collect();
    assert!(sources.len() > 30, "{sources:?}");
    sources
}

/// `steps/run.rs` → `steps::run`; `steps/mod.rs` → `steps`.
fn module(file: &str) -> String {
    file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
}

/// The text without tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The modules of the crate that a file names: by `crate::`, `super::` or a group of them.
fn names(file: &str, text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut paths = Vec::new();
    let own = module(file);
    let parent = own.rsplit_once("::").map_or(String::new(), |(parent, _)| format!("{parent}::"));
    let parent = if file.ends_with("/mod.rs") { String::new() } else { parent };
    for (start, base) in [("crate::", String::new()), ("super::", parent)] {
        for (at, _) in text.match_indices(start) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            spread(&base, &text[at + start.len()..], &mut paths);
        }
    }
    let longest = |path: &String| {
        modules.iter().filter(|module| *path == **module || path.starts_with(&format!("{module}::"))).max_by_key(|m| m.len())
    };
    paths.iter().filter_map(longest).filter(|module| **module != own).cloned().collect()
}

/// `a::{b, c::d}` → `a::b`, `a::c::d`.
fn spread(base: &str, text: &str, paths: &mut Vec<String>) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = format!("{base}{}", &text[..end]);
    if !text[end..].starts_with('{') {
        paths.push(path.trim_end_matches(':').to_string());
        return;
    }
    let (mut depth, mut from) = (0, end + 1);
    for (at, c) in text[end..].char_indices().map(|(at, c)| (end + at, c)) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || (c == '}' && depth == 0) {
            spread(&path, text[from..at].trim_start(), paths);
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
}

/// A way along the arrows that ends where it began.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        arrows: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(from) = way.iter().position(|seen| seen == at) {
            return Some(way[from..].to_vec());
        }
        if !done.insert(at.to_string()) {
            return None;
        }
        way.push(at.to_string());
        let found = arrows.get(at).into_iter().flatten().find_map(|to| walk(to, arrows, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|from| walk(from, arrows, &mut Vec::new(), &mut done))
}

/// A room is a folder of `src`, or a file that stands there alone.
fn room(module: &str) -> String {
    module.split("::").next().unwrap().to_string()
}

fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let modules: BTreeSet<String> = sources.keys().map(|file| module(file)).collect();
    let arrows = sources.iter().filter(|(file, _)| !["lib.rs", "main.rs"].contains(&&***file));
    arrows.map(|(file, text)| (module(file), names(file, &code(text), &modules))).collect()
}

#[test]
fn no_room_knows_another_that_knows_it() {
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in arrows() {
        let all = rooms.entry(room(&from)).or_default();
        all.extend(to.iter().map(|to| room(to)).filter(|to| *to != room(&from)));
    }
    assert!(rooms["steps"].contains("node"), "{rooms:?}");
    assert_eq!(circle(&rooms), None);
}

/// The step table names the functions of its steps, which work on the run that goes through the table: the one circle there is, within one
/// room. Everywhere else no file knows another that knows it.
#[test]
fn no_file_knows_another_that_knows_it() {
    let mut arrows = arrows();
    arrows.retain(|from, _| room(from) != "steps");
    for to in arrows.values_mut() {
        to.retain(|to| room(to) != "steps");
    }
    // A room's own page may name its files, and they what it defines for all of them.
    let pages: BTreeSet<String> =
        arrows.keys().filter(|module| arrows.keys().any(|other| other.starts_with(&format!("{module}::")))).cloned().collect();
    arrows.retain(|from, _| !pages.contains(from));
    assert_eq!(circle(&arrows), None);
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let long: Vec<_> =
        sources().iter().map(|(file, text)| (text.lines().count(), file.clone())).filter(|(lines, _)| *lines > MOST_LINES).collect();
    assert!(long.is_empty(), "{long:?}");
}

/// A text can be shown, but nobody can act on it.
#[test]
fn errors_keep_their_kind() {
    let mut found = Vec::new();
    for (file, text) in sources() {
        let code: String = code(&text).split_whitespace().collect::<Vec<_>>().join(" ");
        for what in [", String>", ", &'static str>", ", &str>", ", (String", "From<String> for", "Other(String)"] {
            for (at, _) in code.match_indices(what) {
                let before = &code[code[..at].rfind("fn ").unwrap_or(0)..at];
                if what.starts_with(',') && !before.contains("-> Result<") && !before.contains("= Result<") {
                    continue; // a map, say
                }
                found.push(format!(
                    "{file}: {}{what}",
                    before.chars().rev().take(100).collect::<Vec<_>>().into_iter().rev().collect::<String>()
                ));
            }
        }
    }
    assert!(found.len() <= MOST_TEXT_ERRORS, "{}", found.join("\n"));
}

/// What the world is reached by, and the files that may.
#[test]
fn the_world_is_reached_by_the_doors_alone() {
    let doors = [
        "outside/clock.rs",
        "outside/disk.rs",
        "outside/http.rs",
        "outside/process.rs",
        "outside/interrupt.rs",
        "outside/seal.rs",
        "outside/terminal.rs",
        "settings.rs",
        "logger.rs",
        "main.rs",
    ];
    let mut found = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !doors.contains(&&***file)) {
        let code = code(text);
        for what in [
            "std::fs",
            "std::env::",
            "env::var",
            "TcpStream",
            "TcpListener",
            "UnixStream",
            "to_socket_addrs",
            "std::process",
            "thread::sleep",
            "Instant",
            "SystemTime",
            "libc::",
            "std::os::unix",
            "static mut",
            "Mutex<",
        ] {
            if code.contains(what) {
                found.push(format!("{file}: {what}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What the README says that an error says, one does. `…`: what stands there differs.
#[test]
fn the_errors_of_the_readme_are_those_of_the_sources() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let chapter = readme.split_once("### What an error means").unwrap().1.split_once("\n###").unwrap().0;
    let said: Vec<&str> = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | ")).map(|(said, _)| said).collect();
    assert!(said.len() > 15, "{said:?}");
    let written: String = sources().values().map(|text| code(text)).collect();
    // A text that goes on in the next line.
    let written: Vec<&str> = written.split("\\\n").collect();
    let written: String = written.iter().enumerate().map(|(at, part)| if at > 0 { part.trim_start() } else { part }).collect();
    for part in said.iter().flat_map(|said| said.split('`').step_by(2).chain(said.split('`').skip(1).step_by(2))) {
        for part in part.split(" … ").map(str::trim).filter(|part| !part.is_empty() && *part != "," && *part != "git clone") {
            assert!(part == "and what that says" || written.contains(part), "no error says “{part}”");
        }
    }
}
