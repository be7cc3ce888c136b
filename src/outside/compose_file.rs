//! What the handler needs of an application's services and volumes, read from the file that compose has resolved (see
//! [`compose`](super::compose)). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use super::engine::Restart;
use crate::model::names::{Project, Volume as VolumeName};

/// What compose looks for by itself, in its order, and what it adds to it.
pub const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
pub const OVERRIDES: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// A volume with this label is not overwritten by migrate.
const NONMIGRABLE: &str = "com.github.mlfmonde.cluster.nonmigrable";
/// An ordinary volume with this label, a cache, goes with a move and a destroy.
pub const DISPOSABLE: &str = "com.github.mlfmonde.cluster.disposable";
/// Variables that say something of routes, as their service has written them: service → variable → value. In the resolved file, where a
/// container does not get its variable so.
pub const ROUTES: &str = "x-handler-routes";
/// The names of services, in the order of the file.
pub const ORDER: &str = "x-handler-order";

#[derive(Debug, Clone, PartialEq)]
pub struct Compose {
    /// In the file's order, as far as it is known. Those that `up` starts: not those of a profile that is not asked for.
    pub services: Vec<Service>,
    /// All that a service of whatever profile uses, and that are not external.
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: String,
    /// The name of its container.
    pub container: String,
    pub image: Option<String>,
    pub build: bool,
    /// Variables with a value.
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
    pub driver: String,
    /// Its driver is the one that replicates.
    pub data: bool,
    pub migrable: bool,
    pub disposable: bool,
    /// `up` makes it. What only a service of another profile uses may be there or not.
    pub made: bool,
}

#[derive(Debug)]
pub enum Error {
    /// Compose prints something else than is known of it.
    Json(serde_json::Error),
    Name {
        at: String,
        name: String,
    },
    Restart {
        at: String,
        found: String,
    },
    Container {
        name: String,
        first: String,
        second: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Json(error) => write!(f, "not what docker-compose config is known to print: {error}"),
            Error::Name { at, name } => {
                write!(f, "{at}: {name:?} is no usable name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit")
            }
            Error::Restart { at, found } => write!(f, "{at}: {found:?}: expected no, always, unless-stopped, on-failure or on-failure:N"),
            Error::Container { name, first, second } => write!(f, "services {first} and {second} both name their container {name}"),
        }
    }
}

impl std::error::Error for Error {}

/// What `docker-compose config --format json` prints, as far as it matters here.
#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    services: BTreeMap<String, ModelService>,
    #[serde(default)]
    volumes: BTreeMap<String, ModelVolume>,
    #[serde(default, rename = "x-handler-routes")]
    routes: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default, rename = "x-handler-order")]
    order: Vec<String>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ModelService {
    container_name: Option<String>,
    image: Option<String>,
    build: Option<serde::de::IgnoredAny>,
    environment: Option<BTreeMap<String, Option<String>>>,
    restart: Option<String>,
    deploy: Option<Deploy>,
    depends_on: BTreeMap<String, Dependency>,
    profiles: Vec<String>,
    volumes: Vec<Mount>,
}

#[derive(Deserialize)]
struct Deploy {
    restart_policy: Option<Policy>,
}

#[derive(Deserialize)]
struct Policy {
    condition: Option<String>,
    max_attempts: Option<u32>,
}

#[derive(Deserialize)]
struct Dependency {
    condition: Option<String>,
}

#[derive(Deserialize)]
struct Mount {
    r#type: String,
    source: Option<String>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ModelVolume {
    name: Option<String>,
    driver: Option<String>,
    external: bool,
    labels: BTreeMap<String, String>,
}

/// Compose writes each dollar twice, so that what it has printed can be read by it again.
pub fn plain(text: &str) -> String {
    text.replace("$$", "$")
}

/// A label that says yes.
pub fn says_yes(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

impl Compose {
    /// The services whose containers are expected to exit.
    pub fn oneshots(&self) -> Vec<String> {
        self.services.iter().filter(|service| service.oneshot).map(|service| service.name.clone()).collect()
    }

    /// Those that `up` makes, and those that it does not.
    pub fn data_volumes(&self) -> Vec<VolumeName> {
        self.volumes.iter().filter(|volume| volume.data).map(|volume| volume.name.clone()).collect()
    }

    /// Reads the resolved file of `project`; `driver` is the volume driver that replicates.
    pub fn parse(text: &[u8], project: &Project, driver: &str) -> Result<Compose, Error> {
        let model: Model = serde_json::from_slice(text).map_err(Error::Json)?;
        let mut active: BTreeMap<&String, &ModelService> = model.services.iter().collect();
        active.retain(|_, service| service.profiles.is_empty());
        let awaited = active.values().flat_map(|service| &service.depends_on);
        let awaited = awaited.filter(|(_, how)| how.condition.as_deref() == Some("service_completed_successfully"));
        let oneshots: BTreeSet<&String> = awaited.map(|(name, _)| name).collect();
        let (mut services, mut containers) = (Vec::new(), BTreeMap::new());
        for (name, found) in &active {
            let mut service = service(name, found, project)?;
            service.oneshot = oneshots.contains(name);
            service.environment.extend(model.routes.get(*name).cloned().unwrap_or_default());
            if let Some(first) = containers.insert(service.container.clone(), service.name.clone()) {
                return Err(Error::Container { name: service.container, first, second: service.name });
            }
            services.push(service);
        }
        services.sort_by_key(|service| model.order.iter().position(|name| *name == service.name).unwrap_or(usize::MAX));
        let mounts = active.values().flat_map(|service| &service.volumes).filter(|mount| mount.r#type == "volume");
        let made: BTreeSet<&String> = mounts.filter_map(|mount| mount.source.as_ref()).collect();
        let own = model.volumes.iter().filter(|(_, volume)| !volume.external);
        let volumes = own.map(|(key, found)| volume(key, found, project, driver, made.contains(key))).collect::<Result<_, _>>()?;
        Ok(Compose { services, volumes })
    }
}

fn service(name: &str, found: &ModelService, project: &Project) -> Result<Service, Error> {
    let at = format!("services.{name}");
    usable(name, "services")?;
    let container = found.container_name.as_deref().map_or_else(|| format!("{project}-{name}-1"), plain);
    usable(&container, &format!("{at}.container_name"))?;
    let environment = found.environment.iter().flatten();
    Ok(Service {
        name: name.into(),
        container,
        image: found.image.as_deref().map(plain),
        build: found.build.is_some(),
        environment: environment.filter_map(|(name, value)| Some((name.clone(), plain(value.as_ref()?)))).collect(),
        restart: restart(found, &at)?,
        oneshot: false,
    })
}

/// `restart`, or as compose has it `deploy.restart_policy`, which goes before it.
fn restart(found: &ModelService, at: &str) -> Result<Restart, Error> {
    let of = |name: &str, most| Restart { name: name.into(), most };
    if let Some(policy) = found.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref()) {
        let most = policy.max_attempts.unwrap_or_default().into();
        return match policy.condition.as_deref().unwrap_or("any") {
            "none" => Ok(of("no", 0)),
            "on-failure" => Ok(of("on-failure", most)),
            "any" => Ok(of("always", 0)),
            other => Err(Error::Restart { at: format!("{at}.deploy.restart_policy.condition"), found: other.into() }),
        };
    }
    let Some(text) = &found.restart else { return Ok(Restart::never()) };
    let (name, most) = text.split_once(':').unwrap_or((text, "0"));
    match (name, most.parse()) {
        ("no" | "always" | "unless-stopped" | "on-failure", Ok(most)) => Ok(of(name, most)),
        _ => Err(Error::Restart { at: format!("{at}.restart"), found: text.clone() }),
    }
}

fn volume(key: &str, found: &ModelVolume, project: &Project, driver: &str, made: bool) -> Result<Volume, Error> {
    let at = format!("volumes.{key}");
    usable(key, "volumes")?;
    let name = found.name.as_deref().map_or_else(|| format!("{project}_{key}"), plain);
    usable(&name, &format!("{at}.name"))?;
    let name = VolumeName::try_from(name).map_err(|_| Error::Name { at, name: key.into() })?;
    let own = plain(found.driver.as_deref().unwrap_or("local"));
    let labelled = |label: &str| found.labels.get(label).is_some_and(|value| says_yes(value));
    Ok(Volume {
        key: key.into(),
        name,
        data: own == driver,
        driver: own,
        migrable: !labelled(NONMIGRABLE),
        disposable: labelled(DISPOSABLE),
        made,
    })
}

/// Names reach the engine and, for volumes, a plugin that builds shell commands from them.
fn usable(name: &str, at: &str) -> Result<(), Error> {
    let usable =
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if usable && name.len() <= 200 { Ok(()) } else { Err(Error::Name { at: at.into(), name: name.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "anybox/buttervolume:latest";

    fn parse(text: &str) -> Result<Compose, Error> {
        Compose::parse(text.as_bytes(), &Project::try_from("p").unwrap(), DRIVER)
    }

    /// As docker-compose 2.26 has printed it.
    #[test]
    fn what_compose_prints() {
        let compose = parse(include_str!("../../tests/vectors/resolved.json")).unwrap();
        let env =
            |pairs: &[(&str, &str)]| -> BTreeMap<String, String> { pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() };
        let service = |name: &str, image: Option<&str>| Service {
            name: name.into(),
            container: format!("p-{name}-1"),
            image: image.map(Into::into),
            build: image.is_none(),
            environment: env(&[]),
            restart: Restart::never(),
            oneshot: false,
        };
        let route = "http://a.example.com {\n  proxy / $CONTAINER:80\n}\n";
        assert_eq!(
            compose.services,
            [
                Service { oneshot: true, ..service("setup", Some("a")) },
                Service {
                    environment: env(&[("A", "2=3"), ("CADDYFILE", route), ("DOLLAR", "a$b"), ("F", "1.10"), ("T", "true")]),
                    restart: Restart { name: "always".into(), most: 0 },
                    ..service("web", None)
                },
                Service { container: "own".into(), restart: Restart { name: "on-failure".into(), most: 3 }, ..service("db", Some("db:1")) },
            ]
        );
        let volumes: Vec<_> = compose.volumes.iter().map(|v| (&*v.key, &*v.name, v.data, v.migrable, v.disposable, v.made)).collect();
        assert_eq!(
            volumes,
            [
                ("cache", "p_cache", false, true, true, true),
                ("data", "p_data", true, false, false, true),
                ("dump", "p_dump", true, true, false, false),
                ("named", "shared.1", false, true, false, true),
            ]
        );
    }

    #[test]
    fn refused() {
        for (text, message) in [
            ("1", "not what docker-compose config is known to print"),
            (r#"{"services": {"a": {"image": [1]}}}"#, "invalid type: sequence"),
            (
                r#"{"services": {"a": {"container_name": "x"}, "b": {"container_name": "x"}}}"#,
                "services a and b both name their container x",
            ),
            (r#"{"services": {"a": {"restart": "sometimes"}}}"#, "services.a.restart: \"sometimes\": expected no, always"),
            (r#"{"services": {"a b": {}}}"#, "services: \"a b\" is no usable name"),
            (r#"{"services": {"-a": {}}}"#, "is no usable name"),
            (r#"{"services": {"a": {"container_name": "$${X}"}}}"#, "services.a.container_name: \"${X}\" is no usable name"),
            (r#"{"volumes": {"a;reboot": {}}}"#, "is no usable name"),
            (r#"{"volumes": {"a": {"name": "$$(reboot)"}}}"#, "volumes.a.name: \"$(reboot)\" is no usable name"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
