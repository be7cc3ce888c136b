//! Orders by name: the payload that an event would carry, from a few words and from what the records say.

use serde_json::{Value, json};

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::members;
use crate::model::names::{App, AppName, Branch, NodeName, RepoUrl};
use crate::model::record::Record;
use crate::model::{json, keys};

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
        if let Some(exactly) = self.0.iter().find(|(name, _)| **name == *part) {
            return Ok(exactly);
        }
        let found: Vec<&(AppName, Record)> = self.0.iter().filter(|(name, _)| name.contains(part)).collect();
        match found[..] {
            [one] => Ok(one),
            _ => {
                let of: Vec<AppName> = match found.is_empty() {
                    true => self.0.iter().map(|(name, _)| name.clone()).collect(),
                    false => found.iter().map(|(name, _)| name.clone()).collect(),
                };
                Err(Fault::NoSuchName { part: part.into(), many: !found.is_empty(), of }.into())
            }
        }
    }

    /// Those whose master a node is.
    pub fn of_master<'d>(&'d self, node: &'d NodeName) -> impl Iterator<Item = &'d (AppName, Record)> {
        self.0.iter().filter(move |(_, record)| record.master == *node)
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

/// What is not said stays as it is. Another branch is another application.
fn deploy(deployed: &Deployed, of: &str, words: &Words) -> Result<Value, Error> {
    let invalid = |source| Error::Name { what: "deploy", source };
    let branch = words.branch.as_deref().map(Branch::try_from).transpose().map_err(invalid)?;
    let (repo, branch) = match (of.contains(['/', ':']), branch) {
        (true, Some(branch)) => (RepoUrl::try_from(of).map_err(invalid)?, branch),
        (true, None) => return Err(Fault::Unsaid { name: of.into(), flag: "--branch" }.into()),
        (false, branch) => {
            let record = &deployed.find(of)?.1;
            (record.repo_url.clone(), branch.unwrap_or_else(|| record.branch.clone()))
        }
    };
    let name = App { repo: repo.clone(), branch: branch.clone() }.name();
    let record = deployed.0.iter().find(|(known, _)| *known == name).map(|(_, record)| record);
    let Some(master) = words.master.as_deref().or(record.map(|record| &*record.master)) else {
        return Err(Fault::Unsaid { name: name.to_string(), flag: "--master" }.into());
    };
    let mut payload = json!({ "repo": repo, "branch": branch, "master": master, "update": words.update.unwrap_or(false) });
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
