//! The hand-over between two nodes: the owner gets ready, the source stops and sends, the owner serves, the source deletes.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::Part;
use super::output::{Output, Snapshots};
use super::run::Run;
use super::{Done, Stop, retire};
use crate::about;
use crate::data::{own, parents, replicas, sets};
use crate::error::{Error, Fault};
use crate::model::names::{Host, NodeName, Snapshot, Volume};
use crate::model::order::{Handover, Request, State};
use crate::model::replica::Set;

impl Run {
    /// A volume that the record names and this node has not is an error: the plugin says so for whatever trouble it has in looking.
    pub fn snapshot_all(&mut self, volumes: &[Volume]) -> Result<Snapshots, Error> {
        let (checked, plugin) = (self.checked()?, self.here.plugin());
        let mut snapshots = Snapshots::new();
        for volume in volumes {
            // asked for once: the application is down
            if !checked.existing.contains(volume) && !plugin.exists(volume)? {
                let missing = self.old().map(|old| replicas::no_volume(&self.here, &self.name, old, volume)).transpose()?;
                return Err(missing.unwrap_or_else(|| Fault::NoVolume { volume: volume.clone(), elsewhere: None }.into()));
            }
            let before = plugin.snapshots(volume)?;
            let snapshot = plugin.snapshot(volume)?;
            // A newer plugin has named it, since nobody has written to the volume. What no set has may be a person's, and is not to be purged.
            if before.contains(&snapshot) && !sets::written_down(&self.here, &self.name).unwrap_or_default().contains(&snapshot) {
                own::remember(&self.here, &snapshot, None)?;
            }
            snapshots.insert(volume.clone(), snapshot);
        }
        Ok(snapshots)
    }

    /// What the other node has now.
    fn send_all(&mut self, snapshots: Snapshots) -> Result<Snapshots, Error> {
        let address = self.journal.header.peer_address.clone().ok_or(Fault::NoAddress { node: "the other node".into() })?;
        let name = self.order.request.source_app().map_or(self.name.clone(), |source| source.name());
        let owner = NodeName::try_from(self.owner()).map_err(|_| Fault::NoAddress { node: self.owner() })?;
        // A node that confirms nothing has nothing confirmed: it gets all of it.
        let confirmed = replicas::read(&self.here, &name, &owner)?.0.last;
        self.parents_on_disk(&snapshots, &owner, &address, confirmed.as_ref())?;
        let there: BTreeSet<&Snapshot> = confirmed.iter().flat_map(Set::names).collect();
        let mut sent = Snapshots::new();
        for (volume, snapshot) in snapshots {
            // Of a volume that nobody has written to a newer plugin names what was sent as a set before. Sent again it would go there.
            if there.contains(&snapshot) {
                sent.insert(volume, snapshot);
                continue;
            }
            let snapshot = self.here.plugin().send(&volume, snapshot, &address)?;
            sent.insert(volume, snapshot);
        }
        Ok(sent)
    }

    /// A difference is made from a set that the other node has confirmed, or from what this run has sent to it since it has booted.
    fn parents_on_disk(&mut self, snapshots: &Snapshots, owner: &NodeName, address: &Host, confirmed: Option<&Set>) -> Result<(), Error> {
        let boot = about::read(&self.here, owner)?.boot;
        if self.sent_in.as_ref() != Some(&boot) {
            let volumes: Vec<Volume> = snapshots.keys().cloned().collect();
            parents::only(&self.here, address, &volumes, confirmed)?;
            self.sent_in = Some(boot);
        }
        Ok(())
    }

    /// The node that carries the order out, as a source knows it.
    pub fn owner(&self) -> String {
        match &self.order.request {
            Request::Deploy(deploy) => deploy.master.to_string(),
            _ => self.old().map_or(String::new(), |old| old.master.to_string()),
        }
    }

    /// To be called before anything is sent: what the owner receives is on its disk for certain only once it is restored, so that it must not
    /// lose its power until then.
    fn note_boot(&mut self) -> Done {
        let owner = NodeName::try_from(self.owner()).ok();
        let boot = owner.map(|owner| about::read(&self.here, &owner)).transpose()?.map_or(String::new(), |about| about.boot);
        // An older one says nothing of it, and looks at nothing.
        if boot.is_empty() || self.order.handover.as_ref().is_some_and(|handover| handover.boot == boot) {
            return Ok(());
        }
        self.update(|order| order.handover = Some(Handover { boot: boot.clone(), ..Handover::default() }))
    }

    fn say_sent(&mut self, snapshots: &Snapshots) -> Done {
        let mut uuids = BTreeMap::new();
        let seen = self.here.sees_snapshots()?;
        for snapshot in snapshots.values().filter(|_| seen) {
            let found = self.here.world.subvolume(&self.here.snapshot(snapshot))?;
            uuids.extend(found.map(|found| (snapshot.clone(), found.stands_for().to_string())));
        }
        self.update(|order| {
            order.state = State::Sent;
            order.snapshots = snapshots.clone();
            if !uuids.is_empty() {
                order.handover.get_or_insert_default().uuids = uuids.clone();
            }
        })
    }
}

pub fn send_ahead(run: &mut Run) -> Result<Output, Stop> {
    run.note_boot()?;
    let snapshots = run.snapshot_all(&run.old_volumes())?;
    run.send_all(snapshots)?;
    Ok(Output::Nothing)
}

pub fn ready(run: &mut Run) -> Result<Output, Stop> {
    run.update(|order| {
        if order.state == State::Open {
            order.state = State::Ready;
        }
    })?;
    Ok(Output::Nothing)
}

pub fn await_ready(run: &mut Run) -> Result<Output, Stop> {
    run.wait_for(&run.owner(), "get ready", |order| order.state != State::Open)?;
    Ok(Output::Nothing)
}

pub fn send(run: &mut Run) -> Result<Output, Stop> {
    let taken = run.taken().ok_or(Fault::Impossible { what: "a send without the snapshots of the switch" })?;
    run.note_boot()?;
    let sent = run.send_all(taken)?;
    // Kept before it is said: by this the source knows whether the finished order stands on its data.
    run.journal.keep(&run.here.world, Output::Sent(sent.clone()))?;
    run.say_sent(&sent)?;
    Ok(Output::Sent(sent))
}

pub fn await_sent(run: &mut Run) -> Result<Output, Stop> {
    let source = match run.order.request {
        Request::Migrate(_) => run.journal.header.source_record.as_ref(),
        _ => run.old(),
    };
    let source = source.map(|record| record.master.to_string()).ok_or(Fault::Impossible { what: "a hand-over without a source" })?;
    run.wait_for(&source, "send its data", |order| order.state == State::Sent)?;
    Ok(Output::Received(run.order.snapshots.clone()))
}

pub fn await_done(run: &mut Run) -> Result<Output, Stop> {
    match run.wait_for(&run.owner(), "start the application", |_| false) {
        // The other node may be starting it by now: neither what Consul refuses to say nor that it takes long is a reason to start it here, too.
        Err(Stop::Failed(why @ (Error::Consul(_) | Error::Fault(Fault::PeerSlow { .. } | Fault::PeerAbsent { .. })))) => {
            Err(Stop::Away(why))
        }
        waited => waited.map(|()| Output::Nothing),
    }
}

/// A migrate's first part: the volumes that both applications have, as they are now.
pub fn snapshot_source(run: &mut Run) -> Result<Output, Stop> {
    let (Some(source), Some(target)) = (run.journal.header.source_record.clone(), run.old().cloned()) else {
        return Err(Fault::Impossible { what: "a migrate without the records of both applications" }.into());
    };
    let source_prefix = run.source_prefix()?;
    let has_counterpart = |volume: &Volume| {
        let key = volume.strip_prefix(&source_prefix);
        key.is_some_and(|key| target.volumes.iter().any(|own| **own == *format!("{}{key}", run.project.prefix())))
    };
    let (both, others): (Vec<Volume>, Vec<Volume>) = source.volumes.iter().cloned().partition(has_counterpart);
    if both.is_empty() && !others.is_empty() {
        return Err(Fault::NothingToCopy { source: others, target: target.volumes }.into());
    }
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|volume| &**volume).collect();
        let note = format!("not copied, since {} has no volume of that key: {}", run.name, names.join(", "));
        run.update(|order| {
            if !order.notes.contains(&note) {
                order.notes.push(note.clone());
            }
        })?;
    }
    let snapshots = run.snapshot_all(&both)?;
    if run.journal.header.part == Part::Owner {
        return Ok(Output::Copied(snapshots));
    }
    run.note_boot()?;
    let sent = run.send_all(snapshots)?;
    run.say_sent(&sent)?;
    if let Some(app) = run.order.request.source_app() {
        retire::leave(run, &app.name(), &source, &[(sent, false)]);
    }
    Ok(Output::Nothing)
}

impl Run {
    /// How the names of the source's volumes begin.
    pub fn source_prefix(&self) -> Result<String, Fault> {
        let source = self.order.request.source_app().ok_or(Fault::Impossible { what: "a source's data without a source" })?;
        Ok(source.name().project().prefix())
    }
}
