//! `handler routes`: writes the proxies' files of this node from what Consul knows, and has them read again.
//!
//! A file is replaced only when it changes and the proxy's own check accepts it; an application that the check does not accept is left
//! out, named in the log, and the others go on being served.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use serde_json::Value;

use crate::here::Node;
use crate::model::time::Time;
use crate::node::store;
use crate::outside::consul::Entry;
use crate::outside::process::{self as command, Cmd};
use crate::proxies::render::{self, App, Caddy, View};
use crate::routes::caddyfile::{Version, site_addresses};
use crate::settings;

/// The proxies' own commands.
const QUICK: Duration = Duration::from_secs(120);
/// Changes come in bursts; they are written together.
const BURST: Duration = Duration::from_millis(200);
/// A proxy that did not take its file may be starting.
const AGAIN: Duration = Duration::from_secs(2);

/// From the environment; see the README for each.
struct Proxies {
    folder: PathBuf,
    view: View,
    /// Maintenance that is shorter is not shown: requests wait.
    hold: Duration,
    caddy: Proxy,
    haproxy: Proxy,
}

/// One of the two.
struct Proxy {
    file: &'static str,
    check: Vec<String>,
    reload: Vec<String>,
    has: fn(&App) -> bool,
    render: fn(&[&App], &View) -> String,
}

/// A command as a JSON list, since nothing is ever split on spaces.
fn command(name: &str, default: &[&str]) -> Result<Vec<String>, String> {
    match settings::text(name)? {
        None => Ok(default.iter().map(ToString::to_string).collect()),
        Some(text) => serde_json::from_str(&text)
            .map_err(|_| format!("{name}={text:?}: expected a JSON list of the program and its arguments, such as [\"true\"]")),
    }
}

fn text_of_file(name: &str, default: &str) -> Result<String, String> {
    match settings::text(name)? {
        None => Ok(default.into()),
        Some(path) => fs::read_to_string(&path).map_err(|error| format!("{name}: {path}: {error}")),
    }
}

impl Proxies {
    fn from_env(settings: &settings::Settings) -> Result<Proxies, String> {
        let place = settings::text("HANDLER_CADDY")?.unwrap_or_else(|| "caddy".into());
        let caddy = Caddy::parse(&place).ok_or_else(|| format!("HANDLER_CADDY={place:?}: expected host or host:http-port:https-port"))?;
        let check: &[&str] = match settings.caddy {
            Version::One => &["caddy", "-validate", "-conf", "{path}"],
            Version::Two => &["caddy", "validate", "--adapter", "caddyfile", "--config", "{path}"],
        };
        let caddy_head = match settings.caddy {
            Version::One => "",
            Version::Two => render::CADDY_HEAD,
        };
        let folder = settings::text("HANDLER_PROXIES_DIR")?.map_or_else(|| settings.deploy_dir.join(".handler/proxies"), PathBuf::from);
        Ok(Proxies {
            folder,
            hold: settings::seconds("HANDLER_HOLD", 30)?,
            view: View {
                me: String::new(),
                members: Default::default(),
                maintenance: HashSet::new(),
                page: text_of_file("HANDLER_MAINTENANCE_PAGE", render::PAGE)?,
                caddy,
                caddy_version: settings.caddy,
                caddy_head: text_of_file("HANDLER_CADDY_HEAD", caddy_head)?,
                haproxy_head: text_of_file("HANDLER_HAPROXY_HEAD", render::HAPROXY_HEAD)?,
            },
            caddy: Proxy {
                file: "Caddyfile",
                check: command("HANDLER_CADDY_CHECK", check)?,
                reload: command("HANDLER_CADDY_RELOAD", &[])?,
                has: App::in_caddyfile,
                render: render::caddyfile,
            },
            haproxy: Proxy {
                file: "haproxy.cfg",
                check: command("HANDLER_HAPROXY_CHECK", &["haproxy", "-c", "-f", "{path}"])?,
                reload: command("HANDLER_HAPROXY_RELOAD", &[])?,
                has: App::in_haproxy,
                render: render::haproxy,
            },
        })
    }
}

impl Proxies {
    /// All that the files come from, Consul's store by its index, and the files themselves, by what tells that they were touched. Thousands of
    /// records need not be read to see that nothing is to be done.
    fn fingerprint(&self, index: u64) -> String {
        let touched = |path: &Path| fs::metadata(path).ok().map(|its| (its.len(), its.modified().ok()));
        let program = std::env::current_exe().ok().map(|path| touched(&path));
        let proxies = [&self.caddy, &self.haproxy].map(|proxy| {
            let pending = proxy.pending(&self.folder).exists();
            (&proxy.check, &proxy.reload, touched(&self.folder.join(proxy.file)), pending)
        });
        let all = format!("{index} {program:?} {} {:?} {:?} {proxies:?}", self.folder.display(), self.hold, self.view);
        format!("{:x}", md5::compute(all))
    }
}

/// What one look at Consul gave.
struct Seen {
    apps: Vec<App>,
    /// How many applications cannot be served as they stand.
    bad: usize,
    /// Until the next maintenance page has to be shown.
    due: Option<Duration>,
    /// Why a proxy has not taken its file.
    failed: Option<String>,
}

/// Writes both files as they should be now, and stays as long as a maintenance is too young to be shown or a proxy may be starting.
pub fn routes(node: &Node) -> Result<(), String> {
    let mut proxies = Proxies::from_env(&node.settings)?;
    fs::create_dir_all(&proxies.folder).map_err(|error| format!("{}: {error}", proxies.folder.display()))?;
    let state = node.settings.deploy_dir.join(".handler");
    let next = lock_file(&state.join("routes.next"))?;
    let mut failing = None;
    loop {
        // A run that waits for its turn has not looked yet, so that those who come meanwhile need not.
        if next.try_lock().is_err() {
            debug!("another run is about to look");
            return Ok(());
        }
        let turn = lock_file(&state.join("routes.lock"))?;
        turn.lock().map_err(|error| format!("routes.lock: {error}"))?;
        next.unlock().map_err(|error| format!("routes.next: {error}"))?;
        let index = node.consul.index("").map_err(|error| error.to_string())?;
        around(node, &mut proxies.view)?;
        let memory = state.join("routes.seen");
        if fs::read_to_string(&memory).is_ok_and(|seen| seen == proxies.fingerprint(index)) {
            debug!("nothing has changed in Consul since both files were written");
            return Ok(());
        }
        let mut seen = pass(node, &mut proxies)?;
        if let Some(why) = &seen.failed {
            if failing.get_or_insert_with(Instant::now).elapsed() < node.settings.timeouts.proxy {
                warn!("to be tried again: {why}");
                seen.due = Some(seen.due.map_or(AGAIN, |due| due.min(AGAIN)));
            }
        } else {
            failing = None;
        }
        if seen.bad == 0 && seen.due.is_none() && seen.failed.is_none() {
            proxies.view.maintenance.clear();
            store::write(&memory, proxies.fingerprint(index).as_bytes())?;
        }
        drop(turn);
        match (seen.due, seen.failed) {
            (None, Some(why)) => return Err(why),
            (None, None) if seen.bad == 0 => return Ok(()),
            (None, None) => return Err(format!("{} applications are left out of the proxies' files", seen.bad)),
            (Some(due), _) => {
                debug!("looking again in {} s", due.as_secs_f32());
                let woken = node.consul.wait_below("", index, due);
                woken.map_err(|error| error.to_string())?;
            }
        }
    }
}

fn lock_file(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn pass(node: &Node, proxies: &mut Proxies) -> Result<Seen, String> {
    let mut seen = look(node, proxies)?;
    let stale = |proxies: &Proxies, seen: &Seen| {
        let both = [&proxies.caddy, &proxies.haproxy];
        both.into_iter().any(|proxy| !proxy.is_current(&proxies.folder, &proxy.all(&seen.apps), &proxies.view))
    };
    if !stale(proxies, &seen) {
        debug!("nothing to write");
        return Ok(seen);
    }
    sleep(BURST);
    seen = look(node, proxies)?;
    // haproxy shall lead to nothing that Caddy does not serve yet, or not any more: Caddy redirects names that it does not know, for good.
    let here: HashSet<&str> = seen.apps.iter().flat_map(App::sites).chain(site_addresses(&proxies.view.caddy_head)).collect();
    let served = fs::read_to_string(proxies.folder.join(proxies.caddy.file)).unwrap_or_default();
    // in parentheses: not a site, but what the maintenance pages share
    let goes = |site: &str| !site.starts_with('(') && !here.contains(site);
    let order = match site_addresses(&served).any(goes) {
        true => [&proxies.haproxy, &proxies.caddy],
        false => [&proxies.caddy, &proxies.haproxy],
    };
    for proxy in order {
        match proxy.update(&proxies.folder, &seen.apps, &proxies.view) {
            Ok(bad) => seen.bad += bad,
            // no reason to keep the other from its file
            Err(why) => seen.failed = seen.failed.or(Some(why)),
        }
    }
    Ok(seen)
}

/// This node and the others.
fn around(node: &Node, view: &mut View) -> Result<(), String> {
    view.me = node.me().map_err(|error| error.to_string())?.to_string();
    let members = node.consul.members().map_err(|error| error.to_string())?;
    view.members = members.into_iter().map(|member| (member.name, member.address)).collect();
    view.maintenance.clear();
    Ok(())
}

/// Reads what the files depend on.
fn look(node: &Node, proxies: &mut Proxies) -> Result<Seen, String> {
    let context = |error: crate::outside::consul::Error| error.to_string();
    let consul = &node.consul;
    around(node, &mut proxies.view)?;
    let view = &mut proxies.view;
    let (now, hold) = (Time::now(), proxies.hold);
    let mut due: Option<Duration> = None;
    consul
        .each("maintenance/", |entry| {
            let since = serde_json::from_slice::<Value>(&entry.value).ok();
            let since = since.and_then(|value| Time::parse(value["since"].as_str()?));
            match since.and_then(|since| hold.checked_sub(now.since(since))).filter(|left| !left.is_zero()) {
                Some(left) => due = Some(due.map_or(left, |due| due.min(left))),
                None => drop(view.maintenance.insert(entry.key.trim_start_matches("maintenance/").into())),
            }
        })
        .map_err(context)?;
    let mut seen = Seen { apps: Vec::new(), bad: 0, due, failed: None };
    let mut keep = |key: &str, app: Result<App, String>| match app {
        Ok(app) => seen.apps.push(app),
        Err(problem) => {
            seen.bad += 1;
            error!("{key} is left out of the proxies' files: {problem}");
        }
    };
    for (name, value) in node.records()?.iter() {
        keep(&format!("app/{name}"), App::of_record(name, value, &view.me, view.caddy_version));
    }
    let swarm = |entry: Entry| keep(&entry.key, App::of_swarm(entry.key.trim_start_matches("swarm/"), &entry.value));
    consul.each("swarm/", swarm).map_err(context)?;
    for app in &seen.apps {
        if let Err(problem) = view.away(app) {
            warn!("{} cannot be reached: {problem}", app.name);
        }
    }
    Ok(seen)
}

impl Proxy {
    fn all<'a>(&self, apps: &'a [App]) -> Vec<&'a App> {
        apps.iter().filter(|app| (self.has)(app)).collect()
    }

    /// Exists while the proxy has not read its file again.
    fn pending(&self, folder: &Path) -> PathBuf {
        folder.join(format!(".{}.unread", self.file))
    }

    /// The text that was refused, and who was left out of it: a JSON list of the text's sum and the names.
    fn refused(&self, folder: &Path) -> PathBuf {
        folder.join(format!(".{}.refused", self.file))
    }

    fn is_current(&self, folder: &Path, apps: &[&App], view: &View) -> bool {
        let text = (self.render)(apps, view);
        !self.pending(folder).exists() && same(&folder.join(self.file), &text)
    }

    /// Brings the file up to date; how many are left out of it.
    fn update(&self, folder: &Path, apps: &[App], view: &View) -> Result<usize, String> {
        let all = self.all(apps);
        let path = folder.join(self.file);
        let text = (self.render)(&all, view);
        let (text, bad) = match same(&path, &text) {
            true => (text, Vec::new()),
            false => self.accepted(folder, &all, view, text)?,
        };
        let pending = self.pending(folder);
        if !same(&path, &text) {
            store::write(&pending, b"")?;
            store::write(&path, text.as_bytes())?;
            info!("{} written for {} applications", path.display(), all.len() - bad.len());
        }
        if pending.exists() {
            match self.reload.as_slice() {
                [] => debug!("no command is set to have {} read again", self.file),
                argv => cmd(argv, &path).run().map_err(|error| error.to_string())?,
            }
            store::remove(&pending)?;
        }
        Ok(bad.len())
    }

    /// The text that the proxy accepts, and who had to be left out. What was refused before is not tried again.
    fn accepted(&self, folder: &Path, all: &[&App], view: &View, text: String) -> Result<(String, Vec<String>), String> {
        let memory = self.refused(folder);
        let sum = format!("{:x}", md5::compute(&text));
        let known: Option<(String, Vec<String>)> = fs::read(&memory).ok().and_then(|known| serde_json::from_slice(&known).ok());
        let without = |bad: &[String]| {
            let good: Vec<&App> = all.iter().copied().filter(|app| !bad.contains(&app.name)).collect();
            (self.render)(&good, view)
        };
        if let Some((_, bad)) = known.filter(|(its_sum, _)| *its_sum == sum) {
            warn!("{}: still left out: {}", self.file, bad.join(", "));
            return Ok((without(&bad), bad));
        }
        let mut check = |apps: &[&App]| self.check(folder, &(self.render)(apps, view));
        let (good, bad) = match sift(all, &mut check) {
            Ok(sifted) => sifted,
            Err(why) if folder.join(self.file).exists() => {
                return Err(format!("{} stays as it is: the check fails even without any application: {why}", self.file));
            }
            // a proxy that runs in a container may need the file to start at all
            Err(why) => {
                error!("{} is written unchecked: the check fails even without any application: {why}", self.file);
                return Ok((text, Vec::new()));
            }
        };
        for (app, why) in &bad {
            error!("{} is left out of {}: {why}", app.name, self.file);
        }
        if bad.is_empty() {
            store::remove(&memory)?;
            return Ok((text, Vec::new()));
        }
        let bad: Vec<String> = bad.into_iter().map(|(app, _)| app.name.clone()).collect();
        let known = serde_json::to_vec(&(sum, &bad)).map_err(|error| error.to_string())?;
        store::write(&memory, &known)?;
        Ok(((self.render)(&good, view), bad))
    }

    /// Whether the proxy would take the text; without its program everything is taken.
    fn check(&self, folder: &Path, text: &str) -> Result<(), String> {
        if self.check.is_empty() {
            return Ok(());
        }
        // the proxy may look at the name
        let path = folder.join(format!("check-{}", self.file));
        store::write(&path, text.as_bytes())?;
        let checked = cmd(&self.check, &path).both();
        store::remove(&path)?;
        match checked {
            Ok(_) => Ok(()),
            Err(command::Error::NotFound { cmd }) => {
                debug!("{} is not checked: `{cmd}` is not installed here", self.file);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// `{path}` is the file, `{name}` its last part, for a command that sees it elsewhere.
fn cmd(argv: &[String], path: &Path) -> Cmd {
    let (whole, name) = (path.to_string_lossy(), path.file_name().unwrap_or_default().to_string_lossy());
    let mut words = argv.iter().map(|word| word.replace("{path}", &whole).replace("{name}", &name));
    Cmd::new(words.next().unwrap_or_default(), QUICK).args(words)
}

/// Those that are accepted together, and the others with the reason. By halves, so that few of many are found in few checks.
#[allow(clippy::type_complexity)]
fn sift<'a>(
    all: &[&'a App],
    check: &mut impl FnMut(&[&App]) -> Result<(), String>,
) -> Result<(Vec<&'a App>, Vec<(&'a App, String)>), String> {
    if check(all).is_ok() {
        return Ok((all.to_vec(), Vec::new()));
    }
    check(&[])?;
    let (mut good, mut bad) = (Vec::with_capacity(all.len()), Vec::new());
    let mut rest = vec![all];
    while let Some(part) = rest.pop() {
        let before = good.len();
        good.extend_from_slice(part);
        if let Err(why) = check(&good) {
            good.truncate(before);
            match part {
                [one] => bad.push((*one, why)),
                several => {
                    let (first, second) = several.split_at(several.len() / 2);
                    rest.extend([second, first]);
                }
            }
        }
    }
    Ok((good, bad))
}

/// Whether the file has exactly this text, without holding both.
fn same(path: &Path, text: &str) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    if !file.metadata().is_ok_and(|metadata| metadata.len() == text.len() as u64) {
        return false;
    }
    let mut buffer = vec![0; 1 << 16];
    let mut rest = text.as_bytes();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return rest.is_empty(),
            Ok(read) if rest.starts_with(&buffer[..read]) => rest = &rest[read..],
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(names: impl IntoIterator<Item = String>) -> Vec<App> {
        names.into_iter().map(App::named).collect()
    }

    #[test]
    fn sifted() {
        let apps = apps((0..1000).map(|n| n.to_string()));
        let all: Vec<&App> = apps.iter().collect();
        for bad in [vec![], vec!["0"], vec!["999"], vec!["17", "500", "501"]] {
            let mut checks = 0;
            let mut check = |apps: &[&App]| {
                checks += 1;
                match apps.iter().find(|app| bad.contains(&&*app.name)) {
                    Some(app) => Err(format!("no {}", app.name)),
                    None => Ok(()),
                }
            };
            let (good, found) = sift(&all, &mut check).unwrap();
            let found: Vec<_> = found.iter().map(|(app, why)| (&*app.name, &**why)).collect();
            let expected: Vec<_> = bad.iter().map(|name| (*name, format!("no {name}"))).collect();
            assert_eq!(found, expected.iter().map(|(name, why)| (*name, &**why)).collect::<Vec<_>>());
            assert_eq!(good.len(), 1000 - bad.len());
            assert!(good.is_sorted_by_key(|app| app.name.parse::<u32>().unwrap()));
            assert!(checks <= 3 + bad.len() * 20, "{checks}");
        }
        let two_alike = |apps: &[&App]| match apps.iter().filter(|app| app.name == "1" || app.name == "2").count() {
            2 => Err("both".into()),
            _ => Ok(()),
        };
        let (good, bad) = sift(&all, &mut { two_alike }).unwrap();
        assert_eq!((good.len(), &*bad[0].0.name), (999, "2"));
        assert_eq!(sift(&all, &mut |_| Err("broken".into())), Err("broken".into()));
    }

    #[test]
    fn compared_with_the_file() {
        let path = std::env::temp_dir().join(format!("handler-same-{}", std::process::id()));
        let text = "0123456789".repeat(20_000);
        assert!(!same(&path, &text));
        fs::write(&path, &text).unwrap();
        assert!(same(&path, &text));
        assert!(!same(&path, &text[1..]));
        assert!(!same(&path, &text.replace("90", "91")));
        assert!(!same(&path, &format!("{}x", &text[1..])));
        fs::remove_file(&path).unwrap();
    }
}
