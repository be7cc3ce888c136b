//! Reading an application's compose file: what the handler needs of its services and volumes, and nothing else. Pure.

use super::engine::Restart;
use super::yaml::{self, kind, scalar};
use crate::model::names::{Project, Volume as VolumeName};
use serde_yaml::{Mapping, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Looked for at the root of a clone, in this order.
pub const FILES: [&str; 4] = ["docker-compose.yml", "docker-compose.yaml", "compose.yaml", "compose.yml"];

/// A volume with this label is not overwritten by migrate.
const NONMIGRABLE: &str = "com.github.mlfmonde.cluster.nonmigrable";

/// Services and volumes, both in the file's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Compose {
    pub services: Vec<Service>,
    /// All that are declared and not external.
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: String,
    /// The name of its container.
    pub container: String,
    pub image: Option<String>,
    pub build: bool,
    /// Variables with a value in the file; those taken from the caller's environment are left out.
    pub environment: BTreeMap<String, String>,
    /// What the engine is to do when its container ends.
    pub restart: Restart,
    /// Another service waits for this one to complete, so that its container is expected to exit.
    pub oneshot: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Under `volumes:`.
    pub key: String,
    /// The name that the engine and the volume plugin know.
    pub name: VolumeName,
    /// Its driver is the one that replicates.
    pub data: bool,
    pub migrable: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    Yaml(yaml::Error),
    Missing { at: String },
    Type { at: String, expected: &'static str, found: &'static str },
    Name { at: String, name: String },
    Restart { at: String, found: String },
    Container { name: String, first: String, second: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Yaml(error) => error.fmt(f),
            Error::Missing { at } => write!(f, "`{at}` is missing"),
            Error::Type { at, expected, found } => write!(f, "{at}: expected {expected}, found {found}"),
            Error::Name { at, name } => write!(
                f,
                "{at}: {name:?} is no usable name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit; \
                 variables are not replaced here"
            ),
            Error::Restart { at, found } => write!(f, "{at}: {found:?}: expected no, always, unless-stopped, on-failure or on-failure:N"),
            Error::Container { name, first, second } => write!(f, "services {first} and {second} both name their container {name}"),
        }
    }
}

impl std::error::Error for Error {}

impl Compose {
    /// The services whose containers are expected to exit.
    pub fn oneshots(&self) -> Vec<String> {
        self.services.iter().filter(|service| service.oneshot).map(|service| service.name.clone()).collect()
    }

    pub fn data_volumes(&self) -> Vec<VolumeName> {
        self.volumes.iter().filter(|volume| volume.data).map(|volume| volume.name.clone()).collect()
    }

    /// Reads `text`, the compose file of `project`; `driver` is the volume driver that replicates.
    pub fn parse(text: &str, project: &Project, driver: &str) -> Result<Compose, Error> {
        let root = yaml::read(text).map_err(Error::Yaml)?;
        let root = mapping(&root, "the file")?;
        let services = root.get("services").ok_or_else(|| Error::Missing { at: "services".into() })?;
        let services = mapping(services, "services")?;
        let oneshots = oneshots(services)?;
        let services = services.iter().map(|(key, value)| service(key, value, project, &oneshots)).collect::<Result<Vec<_>, _>>()?;
        let mut containers = BTreeMap::new();
        for service in &services {
            if let Some(first) = containers.insert(&service.container, &service.name) {
                return Err(Error::Container { name: service.container.clone(), first: first.clone(), second: service.name.clone() });
            }
        }
        let mut volumes = Vec::new();
        for (key, value) in optional_mapping(root.get("volumes"), "volumes")? {
            volumes.extend(volume(key, value, project, driver)?);
        }
        Ok(Compose { services, volumes })
    }
}

fn service(key: &Value, value: &Value, project: &Project, oneshots: &BTreeSet<String>) -> Result<Service, Error> {
    let name = name_of(key, "services")?;
    let at = format!("services.{name}");
    let map = mapping(value, &at)?;
    let container = match present(map, "container_name") {
        Some(own) => name_of(own, &format!("{at}.container_name"))?,
        None => format!("{project}-{name}-1"),
    };
    let image = match present(map, "image") {
        None => None,
        Some(Value::String(image)) => Some(image.clone()),
        Some(other) => return Err(wrong(format!("{at}.image"), "text", other)),
    };
    Ok(Service {
        container,
        image,
        build: present(map, "build").is_some(),
        environment: pairs(map.get("environment"), &format!("{at}.environment"))?
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
        restart: restart(map, &at)?,
        oneshot: oneshots.contains(&name),
        name,
    })
}

/// `restart`, or as compose has it `deploy.restart_policy`, which goes before it.
fn restart(map: &Mapping, at: &str) -> Result<Restart, Error> {
    let of = |name: &str, most| Restart { name: name.into(), most };
    if let Some(policy) = map.get("deploy").and_then(|deploy| deploy.get("restart_policy")).filter(|policy| !policy.is_null()) {
        let most = policy.get("max_attempts").and_then(Value::as_u64).unwrap_or_default();
        return match policy.get("condition").and_then(Value::as_str).unwrap_or("any") {
            "none" => Ok(of("no", 0)),
            "on-failure" => Ok(of("on-failure", most)),
            "any" => Ok(of("always", 0)),
            other => Err(Error::Restart { at: format!("{at}.deploy.restart_policy.condition"), found: other.into() }),
        };
    }
    let at = format!("{at}.restart");
    match present(map, "restart") {
        None => Ok(Restart::never()),
        // unquoted, `no` is false to some
        Some(Value::Bool(false)) => Ok(Restart::never()),
        Some(value) => {
            let text = scalar(value).ok_or_else(|| wrong(at.clone(), "text", value))?;
            let (name, most) = text.split_once(':').unwrap_or((&text, "0"));
            match (name, most.parse()) {
                ("no" | "always" | "unless-stopped" | "on-failure", Ok(most)) => Ok(of(name, most)),
                _ => Err(Error::Restart { at, found: text }),
            }
        }
    }
}

/// The services that another one waits for to complete.
fn oneshots(services: &Mapping) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    for (key, value) in services {
        let at = || format!("services.{}.depends_on", scalar(key).unwrap_or_default());
        match value.get("depends_on") {
            None | Some(Value::Null | Value::Sequence(_)) => {}
            Some(Value::Mapping(map)) => {
                for (service, how) in map {
                    if how.get("condition").and_then(Value::as_str) == Some("service_completed_successfully") {
                        found.extend(scalar(service));
                    }
                }
            }
            Some(other) => return Err(wrong(at(), "a list or a mapping", other)),
        }
    }
    Ok(found)
}

/// `None` for an external volume.
fn volume(key: &Value, value: &Value, project: &Project, driver: &str) -> Result<Option<Volume>, Error> {
    let key = name_of(key, "volumes")?;
    let at = format!("volumes.{key}");
    let map = optional_mapping(Some(value), &at)?;
    match present(map, "external") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true) | Value::Mapping(_)) => return Ok(None),
        Some(other) => return Err(wrong(format!("{at}.external"), "true or false", other)),
    }
    let data = match present(map, "driver") {
        None => false,
        Some(Value::String(own)) => own == driver,
        Some(other) => return Err(wrong(format!("{at}.driver"), "text", other)),
    };
    let name = match present(map, "name") {
        Some(own) => name_of(own, &format!("{at}.name"))?,
        None => format!("{project}_{key}"),
    };
    let name = VolumeName::try_from(name).map_err(|_| Error::Name { at: at.clone(), name: key.clone() })?;
    let migrable = !pairs(map.get("labels"), &format!("{at}.labels"))?
        .into_iter()
        .any(|(label, value)| label == NONMIGRABLE && value.is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")));
    Ok(Some(Volume { key, name, data, migrable }))
}

/// `environment` and `labels`: a mapping, or a list of `KEY=value`. Of equal keys in a list the last counts, as for compose.
fn pairs(value: Option<&Value>, at: &str) -> Result<Vec<(String, Option<String>)>, Error> {
    let mut found = Vec::new();
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Mapping(map)) => {
            for (key, value) in map {
                let key = scalar(key).ok_or_else(|| wrong(at.into(), "text as key", key))?;
                let text = scalar(value);
                if text.is_none() && !value.is_null() {
                    let expected = "text (for several lines: `|`)";
                    return Err(wrong(format!("{at}.{key}"), expected, value));
                }
                found.push((key, text));
            }
        }
        Some(Value::Sequence(list)) => {
            for item in list {
                let item = scalar(item).ok_or_else(|| wrong(at.into(), "a list of KEY=value", item))?;
                found.push(match item.split_once('=') {
                    Some((key, value)) => (key.into(), Some(value.into())),
                    None => (item, None),
                });
            }
        }
        Some(other) => return Err(wrong(at.into(), "a mapping or a list", other)),
    }
    Ok(found)
}

fn present<'a>(map: &'a Mapping, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn mapping<'a>(value: &'a Value, at: &str) -> Result<&'a Mapping, Error> {
    value.as_mapping().ok_or_else(|| wrong(at.into(), "a mapping", value))
}

fn optional_mapping<'a>(value: Option<&'a Value>, at: &str) -> Result<&'a Mapping, Error> {
    static NONE: std::sync::LazyLock<Mapping> = std::sync::LazyLock::new(Mapping::new);
    match value {
        None | Some(Value::Null) => Ok(&NONE),
        Some(value) => mapping(value, at),
    }
}

/// Names reach the engine and, for volumes, a plugin that builds shell commands from them.
fn name_of(value: &Value, at: &str) -> Result<String, Error> {
    let name = scalar(value).ok_or_else(|| wrong(at.into(), "a name", value))?;
    let usable =
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match usable && name.len() <= 200 {
        true => Ok(name),
        false => Err(Error::Name { at: at.into(), name }),
    }
}

fn wrong(at: String, expected: &'static str, found: &Value) -> Error {
    Error::Type { at, expected, found: kind(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "anybox/buttervolume:latest";

    fn parse(text: &str) -> Result<Compose, Error> {
        Compose::parse(text, &Project::try_from("p").unwrap(), DRIVER)
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn services() {
        let compose = parse(
            "services:
  web:
    build: .
    environment: [A=1, B, A=2=3, C=]
    depends_on:
      setup: {condition: service_completed_successfully}
      db: {condition: service_healthy}
  db: {image: 'db:1', container_name: own, environment: {N: 1, F: 1.10, T: true, Y: yes, Z: ~, P: 22:22}}
  setup: {image: a, build: , depends_on: [db]}
",
        )
        .unwrap();
        let env =
            |pairs: &[(&str, &str)]| -> BTreeMap<String, String> { pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() };
        assert_eq!(
            compose.services,
            [
                Service {
                    name: "web".into(),
                    container: "p-web-1".into(),
                    image: None,
                    build: true,
                    environment: env(&[("A", "2=3"), ("C", "")]),
                    restart: Restart::never(),
                    oneshot: false,
                },
                Service {
                    name: "db".into(),
                    container: "own".into(),
                    image: Some("db:1".into()),
                    build: false,
                    environment: env(&[("N", "1"), ("F", "1.1"), ("T", "true"), ("Y", "yes"), ("P", "22:22")]),
                    restart: Restart::never(),
                    oneshot: false,
                },
                Service {
                    name: "setup".into(),
                    container: "p-setup-1".into(),
                    image: Some("a".into()),
                    build: false,
                    environment: env(&[]),
                    restart: Restart::never(),
                    oneshot: true,
                },
            ]
        );
    }

    #[test]
    fn volumes() {
        let compose = parse(
            "services: {}
x: &x {driver: 'anybox/buttervolume:latest'}
volumes:
  plain:
  data: *x
  labels: {<<: *x, labels: {com.github.mlfmonde.cluster.nonmigrable: TRUE}}
  list: {<<: *x, labels: [com.github.mlfmonde.cluster.nonmigrable=1]}
  not: {<<: *x, labels: [com.github.mlfmonde.cluster.nonmigrable=0, com.github.mlfmonde.cluster.nonmigrable]}
  named: {<<: *x, name: shared.data, external: false}
  away: {external: true}
  old: {external: {name: away}}
  reset: !reset {driver: x}
",
        )
        .unwrap();
        let volumes: Vec<_> = compose.volumes.iter().map(|v| (v.key.as_str(), &*v.name, v.data, v.migrable)).collect();
        assert_eq!(
            volumes,
            [
                ("plain", "p_plain", false, true),
                ("data", "p_data", true, true),
                ("labels", "p_labels", true, false),
                ("list", "p_list", true, false),
                ("not", "p_not", true, true),
                ("named", "shared.data", true, true),
                ("reset", "p_reset", false, true),
            ]
        );
    }

    #[test]
    fn refused() {
        for (text, message) in [
            ("", "the file: expected a mapping, found nothing"),
            ("web: {image: a}", "`services` is missing"),
            ("services: [a]", "services: expected a mapping, found a list"),
            ("services: {a: }", "services.a: expected a mapping, found nothing"),
            ("services: {a: {image: [1]}}", "services.a.image: expected text, found a list"),
            (
                "services: {a: {environment: {CADDYFILE: {a: b}}}}",
                "services.a.environment.CADDYFILE: expected text (for several lines: `|`), found a mapping",
            ),
            ("services: {a: {environment: text}}", "services.a.environment: expected a mapping or a list, found text"),
            ("services: {a: {environment: [{A: b}]}}", "services.a.environment: expected a list of KEY=value, found a mapping"),
            ("services: {a: {depends_on: 1}}", "services.a.depends_on: expected a list or a mapping, found a number"),
            ("services: {a: {container_name: x}, b: {container_name: x}}", "services a and b both name their container x"),
            ("services: {}\nvolumes: [a]", "volumes: expected a mapping, found a list"),
            ("services: {}\nvolumes: {a: {external: 1}}", "volumes.a.external: expected true or false, found a number"),
        ] {
            assert_eq!(error(text), message, "{text}");
        }
        for text in [
            "services: {'a b': {}}",
            "services: {-a: {}}",
            "services: {a: {container_name: '${X}'}}",
            "services: {}\nvolumes: {'a;reboot': }",
            "services: {}\nvolumes: {a: {name: '$(reboot)'}}",
        ] {
            assert!(error(text).contains("is no usable name"), "{text}");
        }
        assert!(error("services: {}\nservices: {}").contains("duplicate entry"));
    }
}
