//! The volume plugin of one node, traps included. A volume's content is a text, so that data can be followed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::http::{Request, Response};
use super::{DRIVER, State};

#[derive(Clone, Debug, Default)]
pub struct Subvolume {
    pub uuid: String,
    pub received: Option<String>,
    pub read_only: bool,
    /// Its content: what a power failure leaves. Until then a whole one may be hollow.
    pub on_disk: bool,
    /// Its power has failed before it was.
    pub hollow: bool,
}

#[derive(Clone, Default)]
pub struct Plugin {
    pub volumes: BTreeMap<String, String>,
    pub snapshots: BTreeMap<String, String>,
    /// What btrfs knows of each of these.
    pub subvolumes: BTreeMap<String, Subvolume>,
    /// (volume, action) → minutes
    pub schedules: BTreeMap<(String, String), String>,
    /// Volumes that a container of somebody else uses: they cannot be removed.
    pub held: BTreeSet<String>,
    /// How many of the next questions for a volume find none: so it answers to whatever goes wrong in looking.
    pub blind: usize,
    /// How many subvolumes it has made.
    made: usize,
    /// So many of the next receives are cut off.
    pub torn: usize,
    /// And the sender does not hear of it.
    pub unsaid: bool,
    /// A person has paused all schedules: it neither lists nor changes them.
    pub paused: bool,
    /// It restores over a volume and names nothing that was kept of it.
    pub nameless: bool,
    /// A newer one: of a volume that nobody has written to it names the snapshot that it has taken last, and it sends nothing twice.
    pub thrifty: bool,
}

/// Lists of snapshots and schedules change nothing.
pub fn is_read(request: &Request) -> bool {
    request.method == "GET" || request.path == "/VolumeDriver.Get"
}

pub fn describe(request: &Request) -> String {
    let call = request.path.trim_start_matches("/VolumeDriver.");
    let body: Value = serde_json::from_str(&request.text()).unwrap_or_default();
    let word = |name: &str| body[name].as_str().map(|w| format!(" {w}")).unwrap_or_default();
    let words: String = ["Name", "Action", "Timer", "Host", "Target"].iter().map(|n| word(n)).collect();
    // As a question is to be told from an effect.
    let get = if is_read(request) { "GET " } else { "" };
    format!("plugin {get}{call}{words}")
}

pub fn error(text: &str) -> Response {
    Response::new(200, json!({"Err": text}).to_string())
}

pub fn answer(s: &mut State, node: &str, request: &Request) -> Response {
    let body: Value = serde_json::from_str(&request.text()).unwrap_or_default();
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let call = (request.method.as_str(), request.path.trim_start_matches("/VolumeDriver."));
    let result = match call {
        ("POST", "Get") if s.nodes[node].plugin.blind > 0 => {
            s.plugin(node).blind -= 1;
            Err(format!("{name}: no such volume"))
        }
        ("POST", "Schedule") | ("GET", "Schedule.List") if s.nodes[node].plugin.paused => Err("Schedule is globally paused".to_owned()),
        ("POST", "Get") => match s.nodes[node].plugin.volumes.contains_key(&name) {
            true => Ok(json!({"Volume": {"Name": name, "Mountpoint": format!("/v/{name}")}})),
            false => Err(format!("{name}: no such volume")),
        },
        ("POST", "Snapshot") => match s.nodes[node].plugin.volumes.get(&name).cloned() {
            Some(content) => {
                let last = s.nodes[node].plugin.last_taken(&name).filter(|last| s.nodes[node].plugin.snapshots.get(last) == Some(&content));
                let last = last.filter(|_| s.nodes[node].plugin.thrifty);
                Ok(json!({"Snapshot": last.unwrap_or_else(|| s.snapshot(node, &name, content))}))
            }
            None => Err(format!("No such volume: {name}")),
        },
        ("GET", path) if path.starts_with("Snapshot.List") => {
            let of = path.strip_prefix("Snapshot.List/").map(|v| format!("{v}@")).unwrap_or_default();
            // In no useful order, as a directory is read.
            let all = s.nodes[node].plugin.snapshots.keys().rev();
            Ok(json!({"Snapshots": all.filter(|n| n.starts_with(&of)).collect::<Vec<_>>()}))
        }
        ("POST", "Snapshot.Send") => send(s, node, &name, body["Host"].as_str().unwrap_or_default()),
        ("POST", "Snapshot.Restore") => restore(s, node, &name, body["Target"].as_str()),
        ("POST", "Snapshot.Remove") => match s.plugin(node).snapshots.remove(&name) {
            Some(content) => {
                s.plugin(node).subvolumes.remove(&name);
                s.removed(node, &format!("snapshot {name}"), &content);
                Ok(json!({}))
            }
            None => Err("No such snapshot".to_owned()),
        },
        ("POST", "Remove") => match s.nodes[node].plugin.volumes.contains_key(&name) {
            true if s.engine(node).containers.iter().any(|c| c.volumes.contains(&name)) => Err(format!("{name}: volume is in use")),
            true => {
                s.remove_volume(node, &name);
                Ok(json!({}))
            }
            false => Err(format!("{name}: no such volume")),
        },
        ("POST", "Schedule") => schedule(s, node, name, &body),
        ("GET", "Schedule.List") => {
            let all = s.nodes[node]
                .plugin
                .schedules
                .iter()
                .map(|((name, action), timer)| json!({"Name": name, "Action": action, "Timer": timer, "Active": "True"}));
            Ok(json!({"Schedule": all.collect::<Vec<_>>()}))
        }
        _ => return Response::new(404, "<html>Not Found</html>"),
    };
    match result {
        Ok(mut answer) => {
            answer["Err"] = "".into();
            Response::new(200, answer.to_string())
        }
        Err(text) => error(&text),
    }
}

fn send(s: &mut State, node: &str, name: &str, host: &str) -> Result<Value, String> {
    let Some(content) = s.nodes[node].plugin.snapshots.get(name).cloned() else {
        return Err(format!("ERROR: cannot find snapshot {name}"));
    };
    let to = s.nodes.iter().find(|(_, n)| n.addr == host).map(|(name, _)| name.clone());
    let Some(to) = to.filter(|to| s.reachable(node, to)) else {
        return Err(format!("ssh: connect to host {host} port 1122: Connection timed out"));
    };
    if s.nodes[node].plugin.thrifty && s.nodes[node].plugin.snapshots.contains_key(&format!("{name}@{host}")) {
        return Ok(json!({}));
    }
    if s.plugin(&to).snapshots.remove(name).is_some() {
        s.plugin(&to).subvolumes.remove(name);
        s.violations.push(format!("{node}: {name} sent to {to} a second time: its copy there is gone"));
        return Err(format!("ERROR: creating subvolume {name} failed: File exists"));
    }
    // What is cut off is writable, and nothing says what it is.
    if s.nodes[&to].full || s.nodes[&to].plugin.torn > 0 {
        let unsaid = s.nodes[&to].plugin.unsaid && !s.nodes[&to].full;
        let torn = Subvolume { uuid: s.new_uuid(&to), ..Subvolume::default() };
        let theirs = s.plugin(&to);
        theirs.torn = theirs.torn.saturating_sub(1);
        theirs.snapshots.insert(name.to_owned(), content.chars().take(content.chars().count() / 2).collect());
        theirs.subvolumes.insert(name.to_owned(), torn);
        return if unsaid { Ok(json!({})) } else { Err(format!("ERROR: short read from stream of {name}")) };
    }
    let mark = format!("@{host}");
    let volume = format!("{}@", name.split('@').next().unwrap_or_default());
    // A difference inherits what is wrong with what it is a difference to.
    let is_mark = |n: &String| n.starts_with(&volume) && n.ends_with(&mark);
    let parent = s.nodes[node].plugin.snapshots.keys().find(|n| is_mark(n)).map(|n| n.trim_end_matches(&mark).to_owned());
    let hollow = parent.is_some_and(|parent| s.nodes[&to].plugin.subvolumes.get(&parent).is_some_and(|parent| parent.hollow));
    let uuid = s.new_uuid(&to);
    let received = s.nodes[node].plugin.subvolumes.get(name).map(|sent| sent.uuid.clone());
    let theirs = s.plugin(&to);
    theirs.snapshots.insert(name.to_owned(), if hollow { String::new() } else { content.clone() });
    theirs.subvolumes.insert(name.to_owned(), Subvolume { uuid, received, read_only: true, on_disk: false, hollow });
    let mine = &mut s.plugin(node).snapshots;
    mine.retain(|n, _| !is_mark(n));
    mine.insert(name.to_owned() + &mark, content);
    Ok(json!({}))
}

fn restore(s: &mut State, node: &str, name: &str, target: Option<&str>) -> Result<Value, String> {
    let mut name = name.to_owned();
    if !name.contains('@') {
        s.violations.push(format!("{node}: restore of {name}, which names no snapshot"));
        let of = format!("{name}@");
        match s.nodes[node].plugin.snapshots.keys().rfind(|n| n.starts_with(&of)) {
            Some(latest) => name = latest.clone(),
            None => return Ok(json!({})),
        }
    }
    let volume = target.or(name.split('@').next()).unwrap_or_default().to_owned();
    let Some(content) = s.nodes[node].plugin.snapshots.get(&name).cloned() else {
        return Err("No such snapshot".to_owned());
    };
    if s.engine(node).containers.iter().any(|c| c.running && c.volumes.contains(&volume)) {
        s.violations.push(format!("{node}: {volume} restored under a running container"));
    }
    // What is restored is a snapshot of it.
    if let Some(subvolume) = s.plugin(node).subvolumes.get_mut(&name) {
        subvolume.on_disk = true;
    }
    let before = s.plugin(node).volumes.insert(volume.clone(), content);
    let backup = before.filter(|_| !s.nodes[node].plugin.nameless).map(|content| s.snapshot(node, &volume, content));
    Ok(backup.map_or(json!({}), |b| json!({"VolumeBackup": b})))
}

fn schedule(s: &mut State, node: &str, name: String, body: &Value) -> Result<Value, String> {
    let action = body["Action"].as_str().unwrap_or_default().to_owned();
    let timer = match &body["Timer"] {
        Value::String(t) => t.clone(),
        t => t.to_string(),
    };
    let schedules = &mut s.plugin(node).schedules;
    match timer.as_str() {
        "0" => drop(schedules.remove(&(name, action))),
        _ => drop(schedules.insert((name, action), timer)),
    }
    Ok(json!({}))
}

impl Plugin {
    fn last_taken(&self, volume: &str) -> Option<String> {
        let of = format!("{volume}@");
        let taken = self.subvolumes.iter().filter(|(name, it)| name.starts_with(&of) && it.received.is_none() && it.read_only);
        let made = |it: &Subvolume| it.uuid.rsplit('-').next().and_then(|made| made.parse::<usize>().ok());
        taken.max_by_key(|(_, it)| made(it)).map(|(name, _)| name.clone())
    }
}

impl State {
    pub fn plugin(&mut self, node: &str) -> &mut Plugin {
        &mut self.nodes.get_mut(node).unwrap().plugin
    }

    pub fn snapshot(&mut self, node: &str, volume: &str, content: String) -> String {
        let name = format!("{volume}@{}", self.now(node));
        let uuid = self.new_uuid(node);
        let plugin = self.plugin(node);
        plugin.snapshots.insert(name.clone(), content);
        // A snapshot of btrfs takes what it is of to the disk.
        plugin.subvolumes.insert(name.clone(), Subvolume { uuid, received: None, read_only: true, on_disk: true, hollow: false });
        name
    }

    fn new_uuid(&mut self, node: &str) -> String {
        let plugin = self.plugin(node);
        plugin.made += 1;
        let made = plugin.made;
        format!("{node}-{made}")
    }

    /// Everything on the disk of the volumes is there to stay.
    pub fn sync_snapshots(&mut self, node: &str) {
        self.plugin(node).subvolumes.values_mut().for_each(|subvolume| subvolume.on_disk = true);
    }

    /// What was received and not synced is whole by its looks, and empty.
    pub fn lose_unsynced_snapshots(&mut self, node: &str) {
        let plugin = self.plugin(node);
        for (name, subvolume) in plugin.subvolumes.iter_mut().filter(|(_, subvolume)| !subvolume.on_disk) {
            (subvolume.hollow, subvolume.on_disk) = (true, true);
            plugin.snapshots.insert(name.clone(), String::new());
        }
    }

    /// What the plugin's schedules do by the hour; where there are none, the handlers' sets.
    pub fn replicate(&mut self, node: &str) {
        self.run_schedules(node);
        self.confirm_sets(node);
    }

    pub fn run_schedules(&mut self, node: &str) {
        let due: Vec<_> = self.nodes[node].plugin.schedules.keys().cloned().collect();
        for (volume, action) in due {
            let Some(host) = action.strip_prefix("replicate:") else {
                continue;
            };
            let Some(content) = self.nodes[node].plugin.volumes.get(&volume).cloned() else {
                continue;
            };
            let snapshot = self.snapshot(node, &volume, content);
            let body = json!({"Name": snapshot, "Host": host}).to_string();
            answer(self, node, &Request::new("POST", "/VolumeDriver.Snapshot.Send", body.as_bytes()));
        }
    }

    /// Docker's own way to the plugin, for volumes of its driver.
    pub fn create_volume(&mut self, node: &str, name: &str, driver: &str) -> Result<(), String> {
        if driver == DRIVER && !self.nodes[node].has_plugin {
            return Err(format!("create {name}: Post \"http://%2Frun%2Fdocker%2Fplugins%2Fbtrfs.sock\": no such file"));
        }
        if driver == DRIVER {
            self.plugin(node).volumes.entry(name.to_owned()).or_default();
        }
        Ok(())
    }

    pub fn remove_volume(&mut self, node: &str, name: &str) {
        if let Some(content) = self.plugin(node).volumes.remove(name) {
            self.removed(node, &format!("volume {name}"), &content);
        }
    }
}
