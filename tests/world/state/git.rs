//! Repositories by URL: what a branch holds, and every commit that it ever had.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Files, Out, State};

#[derive(Clone, Default)]
pub struct Repo {
    pub branches: BTreeMap<String, String>,
    pub commits: BTreeMap<String, BTreeMap<String, String>>,
    /// What its server asks for: site, user and password, a line each.
    pub asks: Option<String>,
}

impl State {
    /// Puts a new commit on a branch; answers its id.
    pub fn commit(&mut self, url: &str, branch: &str, files: &[(&str, &str)]) -> String {
        let repo = self.repos.entry(url.to_owned()).or_default();
        let seed = format!("{url} {branch} {}", repo.commits.len());
        let id = format!("{:x}{:08x}", md5::compute(seed), repo.commits.len());
        repo.branches.insert(branch.to_owned(), id.clone());
        let files = files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        repo.commits.insert(id.clone(), files);
        id
    }
}

/// `secret`: what its environment has for a helper that its arguments name for the site.
pub fn run(s: &State, files: &mut dyn Files, args: &[&str], cwd: &Path, secret: Option<&str>) -> Out {
    let site = |text: &str| format!("credential.{}.helper=/proc/", text.lines().next().unwrap_or_default());
    let secret = secret.filter(|text| args.iter().any(|arg| arg.starts_with(&site(text))));
    let asks = |repo: &Repo| {
        let text = format!("fatal: could not read Username for '{}': terminal prompts disabled", repo.asks.as_deref()?.lines().next()?);
        (repo.asks.as_deref() != secret).then(|| Out::fail(128, &text))
    };
    let args = &args[args.chunks(2).take_while(|pair| pair[0] == "-c").count() * 2..];
    match args {
        ["-C", dir, rest @ ..] => run(s, files, rest, &cwd.join(dir), secret),
        ["clone", rest @ ..] => {
            let (Some(branch), [.., "--", url, dir]) = (after(rest, "--branch"), rest) else {
                return Out::fail(129, "usage: git clone");
            };
            let Some(repo) = s.repos.get(*url) else {
                return Out::fail(128, &format!("fatal: repository '{url}' not found"));
            };
            if let Some(refused) = asks(repo) {
                return refused;
            }
            let Some(id) = repo.branches.get(branch) else {
                return Out::fail(128, &format!("fatal: Remote branch {branch} not found in upstream origin"));
            };
            let dir = cwd.join(dir);
            if !files.list(&dir).is_empty() {
                let text = format!("fatal: destination path '{}' already exists and is not an empty directory.", dir.display());
                return Out::fail(128, &text);
            }
            files.write(&dir.join(".git/origin"), url);
            checkout(files, &dir, repo, id)
        }
        ["rev-parse", "HEAD"] => match read(files, cwd, "HEAD") {
            Some(id) => Out::ok(id + "\n"),
            None => Out::fail(128, "fatal: not a git repository"),
        },
        ["fetch", ..] if origin(s, files, cwd).and_then(asks).is_some() => origin(s, files, cwd).and_then(asks).unwrap(),
        ["fetch", .., "origin", id] => match origin(s, files, cwd).is_some_and(|r| r.commits.contains_key(*id)) {
            true => Out::ok(""),
            false => Out::fail(128, &format!("fatal: remote error: upload-pack: not our ref {id}")),
        },
        ["checkout", .., "--detach", id] => match origin(s, files, cwd) {
            Some(repo) if repo.commits.contains_key(*id) => checkout(files, cwd, repo, id),
            _ => Out::fail(128, &format!("fatal: reference is not a tree: {id}")),
        },
        ["ls-remote", .., "--", url, head, _tag] => {
            let branch = head.trim_start_matches("refs/heads/");
            match s.repos.get(*url).map(|r| r.branches.get(branch)) {
                Some(Some(id)) => Out::ok(format!("{id}\t{head}\n")),
                Some(None) => Out::fail(2, ""),
                None => Out::fail(128, &format!("fatal: '{url}' does not appear to be a git repository")),
            }
        }
        _ => Out::fail(1, &format!("stand-in: no such git command: {args:?}")),
    }
}

fn after<'a>(args: &[&'a str], option: &str) -> Option<&'a str> {
    args.iter().position(|a| *a == option).and_then(|i| args.get(i + 1)).copied()
}

fn origin<'a>(s: &'a State, files: &dyn Files, dir: &Path) -> Option<&'a Repo> {
    s.repos.get(&read(files, dir, "origin")?)
}

fn checkout(files: &mut dyn Files, dir: &Path, repo: &Repo, id: &str) -> Out {
    for old in read(files, dir, "HEAD").and_then(|old| repo.commits.get(&old)).into_iter().flat_map(BTreeMap::keys) {
        files.remove(&dir.join(old));
    }
    for (name, text) in &repo.commits[id] {
        files.write(&dir.join(name), text);
    }
    files.write(&dir.join(".git/HEAD"), id);
    Out::ok("")
}

fn read(files: &dyn Files, dir: &Path, name: &str) -> Option<String> {
    files.read(&dir.join(".git").join(name)).filter(|text| !text.is_empty())
}

/// The commit of the checkout that holds this directory.
pub fn head(files: &dyn Files, dir: &Path) -> String {
    read(files, dir, "HEAD").unwrap_or_else(|| "no commit".to_owned())
}
