//! `handler routes`: writes the proxies' files of this node from what Consul knows, and has them read again.
//!
//! A file is replaced only when it changes and the proxy's own check accepts it; an application that the check does not accept is left
//! out, named in the log, and the others go on being served.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use log::{debug, error, warn};
use serde_json::{Value, json};

use super::error::Error;
use super::file::ProxyFile;
use super::haproxy::TELLS;
use super::view::{Clients, Frame, NOTE, Routed, TOLD, Unservable, View};
use super::{caddy, certificates, haproxy};
use crate::about::About;
use crate::error::{self, text_of};
use crate::here::Here;
use crate::model::maintenance::Maintenance;
use crate::model::names::NodeName;
use crate::model::record::Understood;
use crate::model::time::Time;
use crate::model::{json, keys};
use crate::outside::{self, caddy::without_words, consul::Stand};
use crate::routes::address::site_addresses;
use crate::routes::caddy1;
use crate::settings::{self, Version};

/// Changes come in bursts; they are written together.
const BURST: Duration = Duration::from_millis(200);
/// A proxy that did not take its file may be starting.
const AGAIN: Duration = Duration::from_secs(2);
/// Of a Caddyfile.
const MOST: u64 = 64 << 20;

/// As the operator has set them; see the README for each.
struct Setup {
    frame: Frame,
    /// Maintenance that is shorter is not shown: requests wait.
    hold: Duration,
    caddy: ProxyFile,
    haproxy: ProxyFile,
}

impl Setup {
    fn of(here: &Here, settings: &settings::Proxies) -> Result<Setup, Error> {
        let version = here.settings.routes.caddy;
        let own = here.caddy(Duration::ZERO);
        let folder = settings.folder.clone().unwrap_or_else(|| here.paths.proxies());
        here.world.create_shared_folder(&folder)?;
        let words = |own: &Option<Vec<String>>, default: &[&str]| match own {
            Some(words) => words.clone(),
            None => default.iter().map(ToString::to_string).collect(),
        };
        let caddy_check: &[&str] = match version {
            Version::One => &caddy1::CHECK,
            Version::Two if own.is_some() => &["caddy", "validate", "--config", "{path}"],
            Version::Two => &["caddy", "validate", "--adapter", "caddyfile", "--config", "{path}"],
        };
        let frame = Frame::of(settings, &here.settings.routes, here.settings.proxy_protocol)?;
        let certificates = settings.certificates.as_deref().map_or(Ok(Vec::new()), |folder| own_certificates(here, folder))?;
        Ok(Setup {
            frame: Frame { certificates, ..frame },
            hold: settings.hold,
            caddy: ProxyFile {
                name: if own.is_some() { "caddy.sites" } else { "Caddyfile" },
                folder: folder.clone(),
                caddy: own,
                check: words(&settings.caddy_check, caddy_check),
                reload: words(&settings.caddy_reload, &[]),
                has: Routed::in_caddyfile,
                written: caddy::written,
            },
            haproxy: ProxyFile {
                name: "haproxy.cfg",
                folder,
                caddy: None,
                check: words(&settings.haproxy_check, &["haproxy", "-c", "-f", "{path}"]),
                reload: words(&settings.haproxy_reload, &[]),
                has: Routed::in_haproxy,
                written: haproxy::written,
            },
        })
    }
}

/// `NAME.crt`, each with its `NAME.key`.
fn own_certificates(here: &Here, folder: &Path) -> Result<Vec<Value>, Error> {
    let mut found = Vec::new();
    for name in here.world.list_folder_if_any(folder)?.iter().filter_map(|file| file.strip_suffix(".crt")) {
        let [certificate, key] = ["crt", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
        // Docker makes a folder of what it is to mount and does not find.
        match (here.world.read_file(&certificate, MOST), here.world.is_file(&key)) {
            // With a sum of it: one that was renewed has to be read again; and with whose it is.
            (Ok(Some(text)), true) => {
                let mut tags = certificates::names(&text);
                tags.push(format!("{:x}", md5::compute(text)));
                found.push(json!({"certificate": certificate, "key": key, "tags": tags}))
            }
            (Err(why), _) => warn!("{} is not used: {why}", certificate.display()),
            _ => warn!("{} is not used: {} is not there", certificate.display(), key.display()),
        }
    }
    Ok(found)
}

impl Setup {
    /// Whether haproxy's file has it tell Caddy who the client is.
    fn tells(&self, here: &Here) -> Result<bool, Error> {
        let text = here.world.read_file(&self.haproxy.path(), MOST)?;
        Ok(text.is_some_and(|text| text.starts_with(format!("{NOTE}{TELLS}").as_bytes())))
    }
}

/// Writes both files as they should be now, and stays as long as a maintenance is too young to be shown or a proxy may be starting.
pub fn routes(here: &Here, settings: &settings::Proxies) -> Result<(), Error> {
    let setup = Setup::of(here, settings)?;
    let (turn, next) = here.paths.routes_locks();
    let clock = &here.world.clock;
    let mut failing = None;
    loop {
        // A run that waits for its turn has not looked yet, so that those who come meanwhile need not.
        let Some(next) = here.world.try_lock_file(&next)? else {
            debug!("another run is about to look");
            return Ok(());
        };
        let turn = here.world.lock_file(&turn)?;
        drop(next);
        let index = here.consul.index("")?;
        let mut done = pass(here, &setup)?;
        drop(turn);
        done.say(here)?;
        if let Some(why) = &done.failed {
            let now = clock.uptime();
            let since = *failing.get_or_insert(now);
            if now.saturating_sub(since) < here.settings.timeouts.proxy {
                warn!("to be tried again: {why}");
                done.due = Some(done.due.map_or(AGAIN, |due| due.min(AGAIN)));
            }
        } else {
            failing = None;
        }
        done.remember(here);
        match (done.due, done.failed) {
            (None, Some(why)) => return Err(why),
            (None, None) if done.left_out.is_empty() => return Ok(()),
            (None, None) => return Err(Error::LeftOut { all: done.left_out.into_iter().collect() }),
            (Some(due), _) => {
                debug!("looking again in {} s", due.as_secs_f64());
                here.consul.wait_below("", index, due)?;
            }
        }
    }
}

/// What this node's Caddy says against an application's new version beside what it serves, without words of it. An error: nobody can say.
pub fn refusal(
    here: &Here,
    settings: &settings::Proxies,
    name: &str,
    caddyfile: &str,
    sites: &Understood,
) -> Result<Option<String>, Error> {
    let setup = Setup::of(here, settings)?;
    // What is checked is written to a file, as by a run of `routes`.
    let _turn = here.world.lock_file(&here.paths.routes_locks().0)?;
    let seen = look(here, &setup)?;
    // Whoever checks a site with an authority of Caddy's own makes one where there is none.
    share(here, &seen);
    let Seen { mut view, mut apps, .. } = seen;
    apps.retain(|app| app.name != name);
    view.maintenance.remove(name);
    let record = json!({"master": view.me, "caddyfile": caddyfile, "sites": sites}).to_string();
    match Routed::of(name, record.as_bytes(), &view.me, setup.frame.caddy_version, None) {
        // The last one: it is its fault if it does not go with the others.
        Ok(app) => apps.push(app),
        Err(why) => return Ok(Some(why.to_string())),
    }
    Ok(setup.caddy.refusal(&here.world, &apps, &view, name)?.map(|why| match why {
        error::Error::Caddy(outside::caddy::Error::Refused { says, .. }) => says,
        why => {
            // Caddy says it last, as a line of its log.
            let why = why.to_string();
            let last = why.lines().next_back().unwrap_or_default();
            let said = json::read::<Value>(last.as_bytes()).ok().and_then(|line| Some(line["msg"].as_str()?.to_string()));
            without_words(&said.unwrap_or_else(|| last.into()), caddyfile)
        }
    }))
}

/// What came of one pass.
struct Done {
    /// The applications and certificates that are left out of a file.
    left_out: BTreeSet<String>,
    /// Until the next maintenance page has to be shown.
    due: Option<Duration>,
    /// Why a proxy has not taken its file.
    failed: Option<Error>,
    me: NodeName,
    /// The records by which the files are. None: they are not yet.
    by: Option<Stand>,
    /// By name, with the index: those that move.
    turns: BTreeMap<String, (Maintenance, u64)>,
}

impl Done {
    /// By which records the files are: without it the health check has them written again. And what it is to say of them.
    fn remember(&self, here: &Here) {
        let path = here.paths.routed();
        let mut text = self.by.filter(|_| self.failed.is_none()).map_or(String::new(), |by| by.to_string());
        for name in &self.left_out {
            text.push_str(&format!("\n{name} is left out of the proxies' files of this node"));
        }
        if self.failed.is_some() {
            text.push_str("\na proxy of this node has not taken its file: what has changed is not served here");
        }
        if here.world.read_file(&path, MOST).ok().flatten().as_deref() == Some(text.as_bytes()) {
            return;
        }
        if let Err(why) = here.world.replace_file(&path, text.as_bytes(), false) {
            warn!("{why}");
        }
    }

    /// What the others wait for.
    fn say(&mut self, here: &Here) -> Result<(), Error> {
        if self.failed.is_some() {
            return Ok(());
        }
        for (name, (maintenance, index)) in self.turns.iter_mut().filter(|(name, _)| !self.left_out.contains(*name)) {
            let is_new = maintenance.turn.as_mut().is_some_and(|turn| turn.says(&self.me));
            if is_new {
                let key = format!("{}{name}", keys::MAINTENANCES);
                let text = text_of(&key, maintenance)?;
                // One that has ended stays so.
                here.consul.cas(&key, &text, *index)?;
            }
        }
        Ok(())
    }
}

/// A site is served without a certificate rather than not at all.
fn share(here: &Here, seen: &Seen) {
    if let Err(why) = certificates::share(here, &seen.apps, &seen.view) {
        warn!("certificates are not handed over: {why}");
    }
}

fn pass(here: &Here, setup: &Setup) -> Result<Done, Error> {
    let mut seen = look(here, setup)?;
    let mut failed = None;
    share(here, &seen);
    let is_current = |file: &ProxyFile| file.is_current(&here.world, &seen.apps, &seen.view);
    if [&setup.caddy, &setup.haproxy].into_iter().all(is_current) {
        debug!("nothing to write");
        seen.tell();
        return Ok(seen.done(BTreeSet::new(), failed));
    }
    if seen.holds() {
        debug!("requests wait at this node's Caddy: nothing is written until they do no more");
        let mut done = seen.done(BTreeSet::new(), failed);
        done.by = None;
        // Of others that move nothing is written either, and is not said.
        done.turns.retain(|_, (maintenance, _)| maintenance.turn.as_ref().is_some_and(|turn| !turn.given));
        return Ok(done);
    }
    here.world.clock.sleep(BURST);
    seen = look(here, setup)?;
    seen.tell();
    let mut left_out = BTreeSet::new();
    for file in order(here, setup, &seen)? {
        seen.view.clients.caddy = is_told(here, setup)?;
        match file.update(&here.world, &seen.apps, &seen.view) {
            Ok(bad) => left_out.extend(bad),
            // no reason to keep the other from its file
            Err(why) => failed = failed.or(Some(why)),
        }
    }
    if is_told(here, setup)? != seen.view.clients.caddy {
        seen.view.clients.caddy = !seen.view.clients.caddy;
        failed = failed.or(setup.haproxy.update(&here.world, &seen.apps, &seen.view).err());
    }
    Ok(seen.done(left_out, failed))
}

/// haproxy shall lead to nothing that Caddy does not serve yet, or not any more: Caddy redirects names that it does not know, for good.
fn order<'a>(here: &Here, setup: &'a Setup, seen: &Seen) -> Result<[&'a ProxyFile; 2], Error> {
    let texts = seen.apps.iter().map(|app| &app.caddyfile).chain([&setup.frame.caddy_head]);
    let stay: HashSet<&str> = texts.flat_map(|text| site_addresses(text)).collect();
    let served = here.world.read_file(&setup.caddy.path(), MOST)?.unwrap_or_default();
    // in parentheses: not a site, but what the maintenance pages share
    let goes = |site: &str| !site.starts_with('(') && !stay.contains(site);
    // and shall not tell who the client is when Caddy listens to that no more
    let is_told = setup.tells(here)? && !setup.frame.caddy_head.contains(TOLD);
    Ok(match is_told || site_addresses(&String::from_utf8_lossy(&served)).any(goes) {
        true => [&setup.haproxy, &setup.caddy],
        false => [&setup.caddy, &setup.haproxy],
    })
}

/// What one look at Consul gave.
struct Seen {
    view: View,
    apps: Vec<Routed>,
    /// Key → why its application cannot be served.
    unservable: Vec<(String, Unservable)>,
    due: Option<Duration>,
    turns: BTreeMap<String, (Maintenance, u64)>,
    stand: Stand,
}

/// Whether haproxy may tell Caddy who the client is: Caddy has read a file by which it listens to that, this one or one before it.
fn is_told(here: &Here, setup: &Setup) -> Result<bool, Error> {
    let head = &setup.frame.caddy_head;
    let listens = here.world.read_file(&setup.caddy.path(), MOST)?.is_some_and(|text| text.starts_with(format!("{NOTE}{head}").as_bytes()));
    Ok(head.contains(TOLD) && listens && (setup.caddy.is_read(&here.world) || setup.tells(here)?))
}

fn look(here: &Here, setup: &Setup) -> Result<Seen, Error> {
    let members = here.consul.members()?.into_iter().map(|member| (member.name, member.address)).collect();
    let mut peers = HashSet::new();
    for entry in here.consul.list(keys::NODES)? {
        if json::read::<About>(&entry.value).is_ok_and(|about| about.peered) {
            peers.insert(name_of(&entry.key, keys::NODES).to_string());
        }
    }
    let clients = Clients { caddy: is_told(here, setup)?, here: here.settings.proxy_protocol, peers };
    let mut view = View { frame: setup.frame.clone(), me: here.me()?.clone(), members, maintenance: HashSet::new(), clients };
    let now = here.world.clock.now();
    let mut turns = BTreeMap::<String, (Maintenance, u64)>::new();
    let mut due: Option<Duration> = None;
    for entry in here.consul.list(keys::MAINTENANCES)? {
        let (name, maintenance) = (name_of(&entry.key, keys::MAINTENANCES).to_string(), Maintenance::read(&entry.value));
        // a key without a date, as the operator may write it, is shown at once
        // and so is one by a clock that is far ahead: for as long nothing would be written where requests wait
        let since = maintenance.since.as_deref().and_then(Time::parse).filter(|since| since.since(now) <= setup.hold);
        match since.and_then(|since| setup.hold.checked_sub(now.since(since))).filter(|left| !left.is_zero()) {
            Some(left) => due = Some(due.map_or(left, |due| due.min(left))),
            None => drop(view.maintenance.insert(name.clone())),
        }
        if maintenance.turn.is_some() {
            turns.insert(name, (maintenance, entry.modify_index));
        }
    }
    let (mut apps, mut unservable, mut stand) = (Vec::new(), Vec::new(), Stand::default());
    // Of two that an older handler has let have the same, the one that had it first goes on being served.
    let mut entries = here.consul.list(keys::APPS)?;
    entries.sort_by_key(|entry| entry.create_index);
    for entry in entries {
        stand.count(&entry);
        let name = name_of(&entry.key, keys::APPS);
        let turn = turns.get(name).and_then(|(maintenance, _)| maintenance.turn.as_ref());
        match Routed::of(name, &entry.value, &view.me, setup.frame.caddy_version, turn) {
            Ok(app) => apps.push(app),
            Err(why) => unservable.push((entry.key, why)),
        }
    }
    Ok(Seen { view, apps, unservable, due, turns, stand })
}

fn name_of<'a>(key: &'a str, prefix: &str) -> &'a str {
    key.strip_prefix(prefix).unwrap_or(key)
}

impl Seen {
    /// Whether requests wait here for an application that is on its way: they end with 502 when Caddy is loaded anew. Not for longer than until its
    /// page would be shown.
    fn holds(&self) -> bool {
        self.turns.iter().any(|(name, (maintenance, _))| {
            maintenance.turn.as_ref().is_some_and(|turn| turn.held && turn.to == self.view.me) && !self.view.maintenance.contains(name)
        })
    }

    /// `bad` are left out of a file, besides those that cannot be served at all.
    fn done(self, bad: BTreeSet<String>, failed: Option<Error>) -> Done {
        let unservable = self.unservable.iter().map(|(key, _)| name_of(key, keys::APPS).to_string());
        let left_out = unservable.chain(bad).collect();
        Done { left_out, due: self.due, failed, me: self.view.me, by: Some(self.stand), turns: self.turns }
    }

    fn tell(&self) {
        for (key, why) in &self.unservable {
            error!("{key} is left out of the proxies' files: {why}");
        }
        for app in &self.apps {
            if let Err(why) = self.view.way(app) {
                warn!("{} cannot be reached: {why}", app.name);
            }
        }
    }
}
