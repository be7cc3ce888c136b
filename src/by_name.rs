//! Orders by name: the payload that an event would carry, from a few words and from what the records say.

use serde_json::{Value, json};

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::members;
use crate::model::names::{App, AppName, Branch, NodeName, RepoUrl};
use crate::model::record::Record;
use crate::model::{json, keys};
use crate::variables;

/// What a command line says of an order.
#[derive(Debug, Default, PartialEq)]
pub struct Words {
    /// JSON; or a name or a repository, and of a migrate its target.
    pub of: Vec<String>,
    pub branch: Option<String>,
    pub master: Option<String>,
    /// `none`: it is to have none.
    pub slave: Option<String>,
    pub update: Option<bool>,
    /// No question is asked.
    pub yes: bool,
}

impl Words {
    pub fn is_json(&self) -> bool {
        self.of.first().is_some_and(|word| word.trim_start().starts_with('{'))
    }
}

/// What is deployed; a record that cannot be read is not by name.
pub struct Deployed(Vec<(AppName, Record)>);

impl Deployed {
    pub fn read(here: &Here) -> Result<Deployed, Error> {
        let of = |name: &str, text: &[u8]| Some((AppName::try_from(name).ok()?, json::read(text).ok()?));
        let entries = here.consul.list(keys::APPS)?;
        Ok(Deployed(entries.iter().filter_map(|entry| of(entry.key.trim_start_matches(keys::APPS), &entry.value)).collect()))
    }

    /// By its name, or by any part of it that no other has.
    pub fn find(&self, part: &str) -> Result<&(AppName, Record), Error> {
        only(&self.0, |(name, _)| name, part)
    }

    /// Those whose master a node is.
    pub fn of_master<'d>(&'d self, node: &'d NodeName) -> impl Iterator<Item = &'d (AppName, Record)> {
        self.0.iter().filter(move |(_, record)| record.master == *node)
    }
}

/// The one of this name, or whose name has this part, if no other's has it: `shop` is `shop_main.e4371`, and not `shop-test_main.12345`.
fn only<'a, T>(all: &'a [T], name: impl Fn(&T) -> &AppName, part: &str) -> Result<&'a T, Error> {
    if let Some(exactly) = all.iter().find(|one| **name(one) == *part) {
        return Ok(exactly);
    }
    let begins = |name: &str| name.strip_prefix(part).is_some_and(|rest| rest.starts_with(['_', '.']));
    let mut found: Vec<&T> = all.iter().filter(|one| begins(name(one))).collect();
    if found.is_empty() {
        found = all.iter().filter(|one| name(one).contains(part)).collect();
    }
    match found[..] {
        [one] => Ok(one),
        [] => Err(Fault::NoSuchName { part: part.into(), many: false, of: all.iter().map(|one| name(one).clone()).collect() }.into()),
        _ => Err(Fault::NoSuchName { part: part.into(), many: true, of: found.into_iter().map(|one| name(one).clone()).collect() }.into()),
    }
}

/// One that may not be deployed yet, or no more, but have variables.
pub fn with_variables(here: &Here, of: &str, branch: Option<&str>) -> Result<AppName, Error> {
    let deployed = Deployed::read(here)?;
    if of.contains(['/', ':']) || branch.is_some() {
        return Ok(app("env", &deployed, of, branch)?.name());
    }
    let mut names: Vec<AppName> = deployed.0.into_iter().map(|(name, _)| name).collect();
    let others: Vec<AppName> = variables::apps(here)?.into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(others);
    only(&names, |name| name, of).cloned()
}

/// By a repository, which needs a branch, or by the name of one that is deployed. Another branch is another application.
fn app(what: &'static str, deployed: &Deployed, of: &str, branch: Option<&str>) -> Result<App, Error> {
    let invalid = |source| Error::Name { what, source };
    let branch = branch.map(Branch::try_from).transpose().map_err(invalid)?;
    match (of.contains(['/', ':']), branch) {
        (true, Some(branch)) => Ok(App { repo: RepoUrl::try_from(of).map_err(invalid)?, branch }),
        (true, None) => Err(Fault::Unsaid { name: of.into(), flag: "--branch" }.into()),
        (false, branch) => {
            let record = &deployed.find(of)?.1;
            Ok(App { repo: record.repo_url.clone(), branch: branch.unwrap_or_else(|| record.branch.clone()) })
        }
    }
}

/// What the event would carry.
pub fn payload(here: &Here, event: &str, words: &Words) -> Result<String, Error> {
    let [of, target @ ..] = &words.of[..] else { return Ok(String::new()) };
    if words.is_json() {
        return Ok(of.clone());
    }
    let deployed = Deployed::read(here)?;
    let payload = match event {
        "deploy" => deploy(&deployed, of, words)?,
        "migrate" => {
            let (source, target) = (&deployed.find(of)?.1, &deployed.find(target.first().map_or("", |target| target))?.1);
            let target = json!({ "repo": target.repo_url, "branch": target.branch });
            json!({ "repo": source.repo_url, "branch": source.branch, "target": target, "update": words.update.unwrap_or(true) })
        }
        _ => {
            let record = &deployed.find(of)?.1;
            json!({ "repo": record.repo_url, "branch": record.branch })
        }
    };
    Ok(payload.to_string())
}

/// What is not said stays as it is.
fn deploy(deployed: &Deployed, of: &str, words: &Words) -> Result<Value, Error> {
    let app = app("deploy", deployed, of, words.branch.as_deref())?;
    let name = app.name();
    let record = deployed.0.iter().find(|(known, _)| *known == name).map(|(_, record)| record);
    let Some(master) = words.master.as_deref().or(record.map(|record| &*record.master)) else {
        return Err(Fault::Unsaid { name: name.to_string(), flag: "--master" }.into());
    };
    let mut payload = json!({ "repo": app.repo, "branch": app.branch, "master": master, "update": words.update.unwrap_or(false) });
    match words.slave.as_deref() {
        Some("none") => payload["slave"] = Value::Null,
        Some(slave) => payload["slave"] = slave.into(),
        None => {}
    }
    Ok(payload)
}

/// Each application whose master `node` is, where it goes (`to`, or its slave), and the payload of that deploy. All or none.
pub fn evacuation(here: &Here, node: &str, to: Option<&str>) -> Result<Vec<(AppName, NodeName, String)>, Error> {
    let invalid = |source| Error::Name { what: "evacuate", source };
    let node = NodeName::try_from(node).map_err(invalid)?;
    let to = to.map(NodeName::try_from).transpose().map_err(invalid)?;
    let (deployed, members) = (Deployed::read(here)?, here.consul.members()?);
    if !members.iter().any(|member| *member.name == *node) {
        return Err(Fault::NoSuchMember { node: node.to_string() }.into());
    }
    let mut payloads = Vec::new();
    for (name, record) in deployed.of_master(&node) {
        let to = to.as_ref().or(record.slave.as_ref()).filter(|to| **to != node && members::alive(&members, to));
        let Some(to) = to else { return Err(Fault::NowhereToGo { name: name.clone(), node: node.to_string() }.into()) };
        let payload = json!({ "repo": record.repo_url, "branch": record.branch, "master": to }).to_string();
        payloads.push((name.clone(), to.clone(), payload));
    }
    Ok(payloads)
}
