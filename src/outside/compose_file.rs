//! What the handler needs of an application's services and volumes, read from the file that compose has resolved (see
//! [`compose`](super::compose)). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::engine::Restart;
use crate::model::keep::Rule;
use crate::model::names::{Project, Volume as VolumeName};
use crate::model::replica::EVERY;

/// What compose looks for by itself, in its order, and what it adds to it.
pub const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
pub const OVERRIDES: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// A volume with this label is not overwritten by migrate.
const NONMIGRABLE: &str = "com.github.mlfmonde.cluster.nonmigrable";
/// An ordinary volume with this label, a cache, goes with a move and a destroy.
pub const DISPOSABLE: &str = "com.github.mlfmonde.cluster.disposable";
/// Minutes from one set of the data volumes to the next, and what is kept of these sets: on any of them.
const REPLICATE: &str = "com.github.mlfmonde.cluster.replicate";
const KEEP: &str = "com.github.mlfmonde.cluster.keep";
/// Of [`REPLICATE`]: a week at most.
const MOST_MINUTES: u32 = 10_080;
/// Variables that say something of routes, as their service has written them: service → variable → value. In the resolved file, where a
/// container does not get its variable so.
pub const ROUTES: &str = "x-handler-routes";
/// Of a service, to which a site leads by their names.
const MOST_REPLICAS: u64 = 100;
/// The names of services, in the order of the file.
pub const ORDER: &str = "x-handler-order";

#[derive(Debug, Clone, PartialEq)]
pub struct Compose {
    /// In the file's order, as far as it is known. Those that `up` starts: not those of a profile that is not asked for.
    pub services: Vec<Service>,
    /// All that a service of whatever profile uses, and that are not external.
    pub volumes: Vec<Volume>,
    /// Minutes from one set of the data volumes to the next.
    pub every: u32,
    /// What is kept of the sets.
    pub keep: Rule,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: String,
    /// The name of its container.
    pub container: String,
    pub image: Option<String>,
    pub build: bool,
    /// In the folder that it is built from.
    pub dockerfile: Option<String>,
    /// Variables with a value.
    pub environment: BTreeMap<String, String>,
    /// What the engine is to do when its container ends.
    pub restart: Restart,
    /// Another service waits for this one to complete, so that its container is expected to exit.
    pub oneshot: bool,
    /// `up` makes containers of it: not where it is scaled to none.
    pub made: bool,
    /// So many containers: `container` is the first of them.
    pub replicas: u64,
    /// By the names that the engine has.
    pub networks: Vec<String>,
    /// Further names that it has in them.
    pub aliases: Vec<String>,
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
    Label {
        at: String,
        found: String,
        expected: &'static str,
    },
    /// All volumes of an application are replicated as one.
    Disagree {
        label: &'static str,
        first: String,
        second: String,
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
            Error::Label { at, found, expected } => write!(f, "{at}: {found:?}: expected {expected}"),
            Error::Disagree { label, first, second } => {
                write!(f, "the volumes {first} and {second} disagree about {label}: all data of an application is replicated as one")
            }
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
    #[serde(default)]
    networks: Value,
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
    build: Option<Value>,
    environment: Option<BTreeMap<String, Option<String>>>,
    restart: Option<String>,
    scale: Option<u64>,
    deploy: Option<Deploy>,
    depends_on: BTreeMap<String, Dependency>,
    profiles: Vec<String>,
    volumes: Vec<Mount>,
    networks: Value,
}

#[derive(Deserialize)]
struct Deploy {
    replicas: Option<u64>,
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

impl Service {
    /// All that it has, by their names.
    pub fn containers(&self) -> Vec<String> {
        let others = |first: &str| (2..=self.replicas).map(|n| format!("{first}-{n}")).collect();
        let mut containers: Vec<String> = self.container.strip_suffix("-1").map(others).unwrap_or_default();
        containers.insert(0, self.container.clone());
        containers
    }
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
            let keys = found.networks.as_object().into_iter().flat_map(|networks| networks.keys());
            let aliases = found.networks.as_object().into_iter().flatten().filter_map(|(_, network)| network["aliases"].as_array());
            service.aliases = aliases.flatten().filter_map(|alias| Some(plain(alias.as_str()?))).collect();
            service.networks = keys.map(|key| model.networks[key]["name"].as_str().unwrap_or(key).into()).collect();
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
        let volumes: Vec<Volume> =
            own.map(|(key, found)| volume(key, found, project, driver, made.contains(key))).collect::<Result<_, _>>()?;
        let data = || volumes.iter().filter(|volume| volume.data).map(|volume| (&*volume.key, &model.volumes[&volume.key]));
        let every = one_label(data(), REPLICATE, "a number of minutes from 1 to 10080", |text| {
            text.parse().ok().filter(|minutes| (1..=MOST_MINUTES).contains(minutes))
        })?;
        let keep = one_label(data(), KEEP, "ages that grow, such as 1h:1d:1w:4w:1y (m, h, d, w, y)", Rule::parse)?;
        Ok(Compose { services, volumes, every: every.unwrap_or(EVERY), keep: keep.unwrap_or_default() })
    }
}

fn service(name: &str, found: &ModelService, project: &Project) -> Result<Service, Error> {
    let at = format!("services.{name}");
    usable(name, "services")?;
    let container = found.container_name.as_deref().map_or_else(|| format!("{project}-{name}-1"), plain);
    usable(&container, &format!("{at}.container_name"))?;
    let environment = found.environment.iter().flatten();
    let replicas = found.scale.or(found.deploy.as_ref().and_then(|deploy| deploy.replicas)).unwrap_or(1);
    Ok(Service {
        name: name.into(),
        container,
        image: found.image.as_deref().map(plain),
        build: found.build.is_some(),
        dockerfile: found.build.as_ref().map(|build| plain(build["dockerfile"].as_str().unwrap_or("Dockerfile"))),
        environment: environment.filter_map(|(name, value)| Some((name.clone(), plain(value.as_ref()?)))).collect(),
        restart: restart(found, &at)?,
        oneshot: false,
        made: replicas > 0,
        replicas: if found.container_name.is_some() { 1 } else { replicas.clamp(1, MOST_REPLICAS) },
        networks: Vec::new(),
        aliases: Vec::new(),
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

/// What a label of the data volumes says, wherever it stands.
fn one_label<'a, T: PartialEq>(
    data: impl Iterator<Item = (&'a str, &'a ModelVolume)>,
    label: &'static str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let mut said: Option<(&str, T)> = None;
    for (key, volume) in data {
        let Some(found) = volume.labels.get(label) else { continue };
        let found = plain(found);
        let Some(value) = read(found.trim()) else {
            return Err(Error::Label { at: format!("volumes.{key}.labels.{label}"), found, expected });
        };
        match &said {
            Some((first, other)) if *other != value => {
                return Err(Error::Disagree { label, first: first.to_string(), second: key.into() });
            }
            _ => said = Some((key, value)),
        }
    }
    Ok(said.map(|(_, value)| value))
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
            dockerfile: image.is_none().then(|| "Dockerfile".into()),
            environment: env(&[]),
            restart: Restart::never(),
            oneshot: false,
            made: true,
            replicas: 1,
            networks: vec!["p_default".into()],
            aliases: Vec::new(),
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
    fn how_data_is_replicated() {
        const DATA: &str = r#""driver": "anybox/buttervolume:latest""#;
        let of = |a: &str, b: &str| parse(&format!(r#"{{"volumes": {{"a": {{{DATA}{a}}}, "b": {{{DATA}{b}}}, "c": {{}}}}}}"#));
        let label = |name: &str, value: &str| format!(r#", "labels": {{"com.github.mlfmonde.cluster.{name}": "{value}"}}"#);
        let said = |a: &str, b: &str| of(a, b).map(|compose| (compose.every, compose.keep.to_string())).map_err(|why| why.to_string());
        assert_eq!(said("", ""), Ok((15, "1h:1d:1w:4w:1y".into())));
        assert_eq!(said("", &label("replicate", "5")), Ok((5, "1h:1d:1w:4w:1y".into())));
        assert_eq!(said(&label("keep", "2h:1d"), &label("replicate", "10080")), Ok((10_080, "2h:1d".into())));
        assert_eq!(said(&label("replicate", "5"), &label("replicate", "05")).unwrap().0, 5);
        for (a, b, message) in [
            (
                label("replicate", "0"),
                "".into(),
                "volumes.a.labels.com.github.mlfmonde.cluster.replicate: \"0\": expected a number of minutes",
            ),
            (label("replicate", "10081"), "".into(), "expected a number of minutes from 1 to 10080"),
            (label("replicate", "5m"), "".into(), "expected a number of minutes"),
            ("".into(), label("keep", "1d:1h"), "volumes.b.labels.com.github.mlfmonde.cluster.keep: \"1d:1h\": expected ages that grow"),
            (label("replicate", "5"), label("replicate", "6"), "the volumes a and b disagree about com.github.mlfmonde.cluster.replicate"),
        ] {
            let error = said(&a, &b).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
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
