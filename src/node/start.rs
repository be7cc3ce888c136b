//! What should run here and does not is started again: the record is the truth for that, too.
//!
//! What must hold: nothing is started on data that is missing (compose would make it, empty), nothing that a person keeps down by
//! `maintenance/<name>`, nothing that an order is at work on; what there is of containers stays as it is; and a crash loop is not fed. A disk
//! that is full keeps nothing down: what a killed start has left is known by its processes alone, and how often something was started by the
//! engine, too.

use std::time::Duration;

use log::{info, warn};
use serde::{Deserialize, Serialize};

use crate::data::replicas;
use crate::error::{Error, Fault, text_of};
use crate::here::Here;
use crate::model::names::{AppName, DeployId, NodeName, Project, Volume};
use crate::model::order::{Order, State};
use crate::model::record::Record;
use crate::model::time::Time;
use crate::model::{json, keys};
use crate::orders;
use crate::outside::compose::Tool;
use crate::outside::compose_file::{Compose, Service};
use crate::outside::engine::{Container, Listed};

/// So many starts within so long are a crash loop.
const MOST: usize = 3;
const WITHIN: Duration = Duration::from_secs(600);

/// One thing of an application that should be up and is not.
#[derive(Clone, Debug, PartialEq)]
pub struct Down {
    pub what: String,
    /// Its container, if there is one.
    pub container: Option<String>,
    /// Not where the engine is at it, or a person has paused it.
    pub startable: bool,
}

/// What of the application is down; `listed`: all containers of this node. Asks no more where all of it runs.
pub fn down(here: &Here, name: &AppName, record: &Record, listed: &[Listed]) -> Result<Vec<Down>, Error> {
    let project = name.project();
    let mine: Vec<&Listed> = listed.iter().filter(|it| it.project == *project && !it.oneoff).collect();
    let all_there = record.ct.values().all(|container| mine.iter().any(|it| it.name == *container));
    if !mine.is_empty() && all_there && mine.iter().all(|it| it.state == "running") {
        return Ok(Vec::new());
    }
    let compose = here.resolved(name, &record.deploy_id)?;
    Ok(judged(compose.as_ref().map(|compose| &*compose.services), &here.engine().containers(&project)?))
}

/// By what the compose file says, as far as it is known. A container of none of its services, of a profile's job for one, is nobody's here.
fn judged(services: Option<&[Service]>, containers: &[Container]) -> Vec<Down> {
    let mut down = Vec::new();
    for container in containers {
        let service = services.into_iter().flatten().find(|service| service.name == container.service);
        if container.status == "running" || services.is_some() && service.is_none() || has_done_its_work(container, service) {
            continue;
        }
        let Container { name, status, exit_code, .. } = container;
        let code = if status == "exited" { format!(" (exit code {exit_code})") } else { String::new() };
        down.push(Down {
            what: format!("the container {name} is {status}{code}"),
            container: Some(container.id.clone()),
            startable: ["created", "exited", "dead"].contains(&&**status),
        });
    }
    let absent = |what: String| Down { what, container: None, startable: true };
    if containers.is_empty() {
        return if services.is_some_and(|services| services.iter().all(|service| !service.made)) {
            Vec::new()
        } else {
            vec![absent("no container of it is here".into())]
        };
    }
    let is_absent = |it: &&Service| it.made && !it.oneshot && !containers.iter().any(|container| container.service == it.name);
    let services = services.into_iter().flatten();
    down.extend(services.clone().filter(is_absent).map(|service| absent(format!("the service {} has no container", service.name))));
    // What ends well when its machine is shut down looks as if it had done its work. Where nothing runs any more it is told of, and left: it was
    // not to be restarted, and all of it ran when it was deployed.
    if down.is_empty() && !containers.iter().any(|container| container.status == "running") {
        let what = "all of it has ended well, and nothing brings it back: start it (docker start), or deploy it".into();
        let of_service = |it: &&Container| services.clone().any(|service| service.name == it.service && !service.oneshot);
        let ended = containers.iter().find(of_service);
        down.extend(ended.map(|it| Down { what, container: Some(it.id.clone()), startable: false }));
    }
    down
}

/// An init container, or one that does not come back when it ends well.
fn has_done_its_work(container: &Container, service: Option<&Service>) -> bool {
    let policy = service.map_or(&container.restart, |service| &service.restart);
    let ends = service.is_some_and(|service| service.oneshot) || ["no", "on-failure"].contains(&&*policy.name);
    container.status == "exited" && container.exit_code == 0 && ends
}

/// The starts of an application, while one version of it stands here and since this machine has booted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    boot: String,
    deploy_id: Option<DeployId>,
    /// The last ones, in seconds since the boot.
    at: Vec<u64>,
    /// What kept the last try from its end.
    pub why: Option<String>,
}

impl Starts {
    fn read(here: &Here, name: &AppName) -> Starts {
        // Bookkeeping: one that cannot be read is one that is not there.
        let text = here.world.read_file(&here.paths.starts(name), 1 << 16).ok().flatten();
        text.and_then(|text| json::read(&text).ok()).unwrap_or_default()
    }

    /// A boot and a deploy begin anew.
    pub fn of(here: &Here, name: &AppName, deploy_id: &DeployId) -> Starts {
        let (found, boot, now) = (Starts::read(here, name), boot(here), here.world.clock.uptime().as_secs());
        if found.boot == boot && found.deploy_id.as_ref() == Some(deploy_id) && found.at.iter().all(|at| *at <= now) {
            return found;
        }
        Starts { boot, deploy_id: Some(deploy_id.clone()), ..Starts::default() }
    }

    fn keep(&self, here: &Here, name: &AppName) -> Result<(), Error> {
        let path = here.paths.starts(name);
        let text = text_of(path.display(), self)?;
        here.world.create_folder(&here.paths.app(name))?;
        Ok(here.world.replace_file(&path, &text, false)?)
    }

    /// It was started so often that it is not again: that is a person's now.
    pub fn are_spent(&self) -> bool {
        let last = self.at.last().zip(self.at.len().checked_sub(MOST).and_then(|first| self.at.get(first)));
        last.is_some_and(|(last, first)| last - first <= WITHIN.as_secs())
    }

    /// The last one is so long ago that it has nothing to do with the next.
    pub fn are_over(&self, now: Duration) -> bool {
        self.at.last().is_none_or(|at| now.as_secs().saturating_sub(*at) > WITHIN.as_secs())
    }
}

/// What changes with each boot; nothing where the kernel does not say.
pub fn boot(here: &Here) -> String {
    here.world.boot().unwrap_or_default()
}

/// Whether an order is at work on the application, or on one of the same project, as far as this node is concerned: one that has failed is not,
/// where this node's part is undone, or never was begun.
pub fn is_at_work(order: &Order, name: &AppName, me: &NodeName) -> bool {
    if order.keeps().iter().all(|app| app.project() != name.project()) {
        return false;
    }
    order.state != State::Failed || order.progress.contains_key(&**me) && !order.undone.contains(me)
}

/// Ends what a killed start has left, which would start what must not run. To be called before anything else is done about the application,
/// under its lock: who starts something holds that.
pub fn end_left(here: &Here, name: &AppName) -> Result<(), Error> {
    Ok(here.world.processes.end_marked(&mark(here, name))?)
}

fn mark(here: &Here, name: &AppName) -> String {
    here.paths.starts(name).to_string_lossy().into_owned()
}

/// Starts what should run and does not. Under the application's lock, fenced, without a journal of it; this node is its master by `record`.
pub fn start(here: &Here, name: &AppName, record: &Record) -> Result<(), Error> {
    let down = down(here, name, record, &here.engine().listed()?)?;
    if !down.iter().any(|down| down.startable) {
        return Ok(());
    }
    let mut starts = Starts::of(here, name, &record.deploy_id);
    let what: Vec<&str> = down.iter().map(|down| &*down.what).collect();
    if starts.are_spent() {
        warn!("{name}: {}; started {MOST} times within {} min, and not again", what.join(", "), WITHIN.as_secs() / 60);
        return Ok(());
    }
    let started = begin(here, name, record, &mut starts, &what.join(", "));
    let why = started.as_ref().err().map(Error::to_string);
    let kept = if starts.why == why { Ok(()) } else { Starts { why, ..starts }.keep(here, name) };
    started.and(kept)
}

fn begin(here: &Here, name: &AppName, record: &Record, starts: &mut Starts, what: &str) -> Result<(), Error> {
    let (project, folder) = (name.project(), here.paths.checkout(name, &record.deploy_id));
    if !here.world.is_folder(&folder) {
        return Err(Fault::NoCheckout { app: name.clone() }.into());
    }
    let (checkout, compose) = here.read_checkout(&project, folder, Tool::find(&here.world)?)?;
    has_its_volumes(here, name, record, &compose)?;
    let containers = here.engine().containers(&project)?;
    let services = to_start(&compose.services, &containers);
    if !may_start(here, name, record)? {
        return Ok(());
    }
    info!("{name}: {what}; this node is its master, and starts it");
    let from = starts.at.len().saturating_sub(MOST - 1);
    starts.at.drain(..from);
    starts.at.push(here.world.clock.uptime().as_secs());
    if let Err(why) = starts.keep(here, name) {
        if was_started(&containers, here.world.clock.now()) {
            return Err(why);
        }
        warn!("{name}: {why}; it is started all the same, and not again within {} min", WITHIN.as_secs() / 60);
    }
    let marked = here.world.marked(&mark(here, name));
    if let Err(why) = checkout.start(&marked, &services, &here.settings.timeouts) {
        let before = |it: &Container| containers.iter().any(|old| (&old.id, &old.started_at) == (&it.id, &it.started_at));
        let started: Vec<Container> = here.engine().containers(&project)?.into_iter().filter(|it| !before(it)).collect();
        // What the engine has refused has not crashed, and does not count. The pauses between workers keep it from being asked all the time.
        if !was_started(&started, here.world.clock.now()) {
            starts.at.pop();
            // Where that cannot be written down, the start could not be, either.
            drop(starts.keep(here, name));
        }
        return Err(why.into());
    }
    give_policies(here, &project, &compose.services)
}

/// Whether the engine has started any of them a short while ago, by a clock that may have been put right since.
fn was_started(containers: &[Container], now: Time) -> bool {
    containers
        .iter()
        .filter_map(|container| Time::parse(&container.started_at))
        .any(|started| now.since(started).max(started.since(now)) <= WITHIN)
}

/// All that `up` makes, but what has done its work.
fn to_start(services: &[Service], containers: &[Container]) -> Vec<String> {
    let is_done = |service: &Service| {
        let mut own = containers.iter().filter(|container| container.service == service.name).peekable();
        own.peek().is_some() && own.all(|container| has_done_its_work(container, Some(service)))
    };
    services.iter().filter(|service| service.made && !is_done(service)).map(|service| service.name.clone()).collect()
}

/// Each volume is there that compose would make, empty, if it were not. A cache may be made anew.
fn has_its_volumes(here: &Here, name: &AppName, record: &Record, compose: &Compose) -> Result<(), Error> {
    let (plugin, engine) = (here.plugin(), here.engine());
    let of_file = compose.volumes.iter().filter(|volume| volume.made && !record.volumes.contains(&volume.name));
    let (data, ordinary): (Vec<_>, Vec<_>) = of_file.partition(|volume| volume.data);
    let data: Vec<&Volume> = record.volumes.iter().chain(data.into_iter().map(|volume| &volume.name)).collect();
    for volume in data {
        if !plugin.exists(volume)? {
            return Err(replicas::no_volume(here, name, record, volume)?);
        }
    }
    for volume in ordinary.into_iter().filter(|volume| !volume.disposable) {
        if !engine.has_volume(&volume.name)? {
            return Err(Fault::NoOrdinaryVolume { volume: volume.name.clone() }.into());
        }
    }
    Ok(())
}

/// Looked at last, right before: others may have gone on since.
fn may_start(here: &Here, name: &AppName, record: &Record) -> Result<bool, Error> {
    let me = here.me()?;
    let orders = orders::open(&here.consul)?;
    if orders::at_work(&orders).any(|order| is_at_work(order, name, me)) {
        return Ok(false);
    }
    if here.consul.get(&keys::maintenance(name))?.is_some() {
        return Ok(false);
    }
    let now = super::record(here, name)?;
    Ok(now.is_some_and(|now| (&now.master, &now.deploy_id, &now.data_id) == (me, &record.deploy_id, &record.data_id)))
}

/// A container is created without a policy wherever the last switch has created one.
fn give_policies(here: &Here, project: &Project, services: &[Service]) -> Result<(), Error> {
    let engine = here.engine();
    for container in engine.containers(project)? {
        let service = services.iter().find(|service| service.name == container.service);
        if let Some(service) = service.filter(|service| service.restart != container.restart) {
            engine.set_restart(&container.id, &service.restart)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::engine::Restart;

    fn service(name: &str, restart: &str, oneshot: bool) -> Service {
        let restart = Restart { name: restart.into(), most: 0 };
        let (container, environment) = (format!("p-{name}-1"), Default::default());
        Service {
            name: name.into(),
            container,
            image: None,
            build: true,
            dockerfile: None,
            environment,
            restart,
            oneshot,
            made: true,
            replicas: 1,
            networks: Vec::new(),
            aliases: Vec::new(),
        }
    }

    fn container(service: &str, status: &str, exit_code: i64) -> Container {
        Container {
            id: service.into(),
            name: format!("p-{service}-1"),
            image: String::new(),
            image_name: String::new(),
            service: service.into(),
            status: status.into(),
            exit_code,
            restarts: 0,
            started_at: String::new(),
            health: None,
            oneoff: false,
            restart: Restart::never(),
        }
    }

    #[test]
    fn what_should_run_and_does_not() {
        let services = [
            service("web", "always", false),
            service("init", "no", true),
            service("job", "on-failure", false),
            service("old", "no", false),
        ];
        let up = |name| container(name, "running", 0);
        let found = |containers: &[Container]| -> Vec<String> {
            judged(Some(&services), containers)
                .iter()
                .map(|down| format!("{}{}", down.what, if down.startable { "" } else { "!" }))
                .collect()
        };
        let all = |web: Container| [web, container("init", "exited", 0), container("job", "exited", 0), container("old", "exited", 0)];
        assert_eq!(found(&all(up("web"))), [""; 0]);
        for (status, code, says) in [
            ("exited", 0, "the container p-web-1 is exited (exit code 0)"),
            ("exited", 137, "the container p-web-1 is exited (exit code 137)"),
            ("created", 128, "the container p-web-1 is created"),
            ("dead", 1, "the container p-web-1 is dead"),
            ("restarting", 1, "the container p-web-1 is restarting!"),
            ("paused", 0, "the container p-web-1 is paused!"),
        ] {
            assert_eq!(found(&all(container("web", status, code))), [says]);
        }
        // An init container that is gone, and whatever is none of the services, is nothing to start anything for.
        assert_eq!(found(&[up("web"), up("job"), up("old"), container("backup", "exited", 1)]), [""; 0]);
        assert_eq!(
            found(&[up("web"), container("init", "exited", 1), up("old")]),
            ["the container p-init-1 is exited (exit code 1)", "the service job has no container"]
        );
        assert_eq!(found(&[]), ["no container of it is here"]);
        // Jobs alone are to end. All of it is not.
        let ended = [container("job", "exited", 0), container("old", "exited", 0)];
        assert_eq!(found(&[&[up("web")][..], &ended].concat()), [""; 0]);
        let jobs = [service("job", "on-failure", false), service("old", "no", false)];
        let down = judged(Some(&jobs), &ended);
        assert!(down.len() == 1 && !down[0].startable && down[0].what.starts_with("all of it has ended well"), "{down:?}");
        // Without a compose file by what the containers themselves are to do.
        assert_eq!(judged(None, &[container("x", "exited", 0)]), []);
        assert_eq!(judged(None, &[container("x", "exited", 1)]).len(), 1);
        let none = Service { made: false, ..service("web", "always", false) };
        assert_eq!(judged(Some(&[none]), &[]), []);
    }

    #[test]
    fn what_has_done_its_work_is_not_started_with_the_rest() {
        let services = [service("init", "no", true), service("web", "always", false), service("gone", "no", true)];
        assert_eq!(to_start(&services, &[container("init", "exited", 0), container("web", "exited", 0)]), ["web", "gone"]);
        assert_eq!(to_start(&services, &[container("init", "exited", 1)]), ["init", "web", "gone"]);
    }

    #[test]
    fn three_starts_within_ten_minutes_are_spent() {
        let starts = |at: &[u64]| Starts { at: at.into(), ..Starts::default() };
        for (at, spent) in [(&[][..], false), (&[1, 2], false), (&[1, 2, 601], true), (&[1, 2, 602], false)] {
            assert_eq!(starts(at).are_spent(), spent, "{at:?}");
        }
        assert!(!starts(&[5]).are_over(Duration::from_secs(605)) && starts(&[5]).are_over(Duration::from_secs(606)));
    }

    #[test]
    fn what_the_engine_has_started_a_short_while_ago() {
        let now = Time::parse("2026-11-26T10:10:00Z").unwrap();
        let of = |started: &str| was_started(&[Container { started_at: started.into(), ..container("web", "exited", 1) }], now);
        assert!(of("2026-11-26T10:00:00.5Z") && of("2026-11-26T10:11:00Z"));
        assert!(!of("2026-11-26T09:59:59Z") && !of("2027-11-26T10:10:00Z") && !of("0001-01-01T00:00:00Z") && !of(""));
    }
}
