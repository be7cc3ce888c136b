//! The holder's part: what was sent is looked at, and becomes what a takeover restores, or goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use log::{info, warn};

use super::{Known, Part, confirmed, fail};
use crate::data::{own, replicas};
use crate::error::Error;
use crate::here::Here;
use crate::model::members::{self, Member};
use crate::model::names::{NodeName, Snapshot};
use crate::model::order::{Order, Origin};
use crate::model::replica::{Replica, Seen, Set, newest};
use crate::model::time::Time;
use crate::orders;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// To look at what was sent.
    Judge,
    /// What is on its way is not of what is in force.
    Overtaken,
    /// To remove what is void.
    Clear,
}

/// What `me` has to do as a holder.
pub fn wanted(known: &Known, me: &NodeName, members: &[Member]) -> Option<Wanted> {
    let replica = known.replicas.get(me)?;
    let lives = members::alive(members, &known.record.master);
    match &replica.next {
        // Of a sender that died it may be whole all the same.
        Some(next) if known.in_force(&next.set) && (next.sent || !lives) => Some(Wanted::Judge),
        Some(next) if !known.in_force(&next.set) && lives => {
            // A sender that is still the master sees to that itself, when it has come to its end.
            let sender_sees_to_it = next.set.master == known.record.master && known.holder() == me;
            (next.sent || !sender_sees_to_it).then_some(Wanted::Overtaken)
        }
        _ => (lives && !replica.void.is_empty()).then_some(Wanted::Clear),
    }
}

/// Why a set is not to be believed.
#[derive(Debug, PartialEq)]
enum Flaw {
    /// Whole by its looks, perhaps, and empty: it was received in another boot, and nobody has synced it.
    Rebooted,
    Missing(Snapshot),
    /// Writable, or nothing says what it was received from: it was cut off.
    Torn(Snapshot),
    Foreign(Snapshot),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Flaw::Rebooted => f.write_str("this node has booted since the sending began: it may be hollow"),
            Flaw::Missing(snapshot) => write!(f, "{snapshot} is missing"),
            Flaw::Torn(snapshot) => write!(f, "{snapshot} is torn"),
            Flaw::Foreign(snapshot) => write!(f, "{snapshot} is another one: its UUID is not that of what was sent"),
        }
    }
}

/// What cannot be read is an error, and decides nothing.
fn judge(here: &Here, set: &Set) -> Result<Option<Flaw>, Error> {
    let boot = here.world.boot()?;
    if boot != set.boot {
        return Ok(Some(Flaw::Rebooted));
    }
    for taken in set.snapshots.values() {
        let snapshot = taken.snapshot.clone();
        let flaw = match here.world.subvolume(&here.snapshot(&snapshot))? {
            None => Flaw::Missing(snapshot),
            Some(found) if !found.read_only || (found.received.is_none() && found.uuid != taken.uuid) => Flaw::Torn(snapshot),
            Some(found) if found.stands_for() != taken.uuid => Flaw::Foreign(snapshot),
            Some(_) => continue,
        };
        return Ok(Some(flaw));
    }
    Ok(None)
}

pub fn is_whole(here: &Here, set: &Set) -> bool {
    judge(here, set).is_ok_and(|flaw| flaw.is_none())
}

/// A snapshot of the set that this node has confirmed last, and that is not there any more: what a key says of it holds no longer. Of a dead
/// master a takeover looks itself, and says so.
pub fn lost(here: &Here, known: &Known, me: &NodeName, members: &[Member]) -> Option<Snapshot> {
    let last = known.replicas.get(me)?.last.as_ref().filter(|_| members::alive(members, &known.record.master))?;
    last.names().find(|name| here.world.subvolume(&here.snapshot(name)).is_ok_and(|found| found.is_none())).cloned()
}

pub fn hold(part: &mut Part) -> Result<(), Error> {
    let Some(known) = part.known()? else { return Ok(()) };
    if let Some(lost) = lost(part.here, &known, &part.me, &part.members) {
        let why = format!("{lost}, which was confirmed, is not there any more");
        warn!("{}: {why}", part.name);
        let last = known.replica(&part.me).last;
        // The next one is sent whole.
        part.change_under(&known, &part.me, |replica| {
            let same = replica.last == last;
            if let Some(last) = replica.last.take_if(|_| same) {
                // What of it is there all the same must not be sent over.
                replica.call_void(&last);
                fail(replica, &why);
            }
            same
        })?;
    }
    let Some(known) = part.known()? else { return Ok(()) };
    // A run that was killed after it had confirmed, or a move's commit: it is this node's to purge, too.
    if let Some(last) = known.replica(&part.me).last.filter(|last| !part.book.has(last) && is_here(part.here, last)) {
        part.book.add(part.here, part.name, &last, known.every())?;
    }
    set_aside_unused(part, &known)?;
    match wanted(&known, &part.me, &part.members) {
        Some(Wanted::Judge) => look(part, &known)?,
        Some(Wanted::Overtaken) => {
            if let Some(next) = known.replica(&part.me).next {
                info!("{}: the set of {} was overtaken by a deploy: void", part.name, next.set.taken);
                part.void(&part.me, &next.set, "overtaken by a deploy", false)?;
            }
        }
        Some(Wanted::Clear) | None => {}
    }
    match part.known()? {
        Some(known) if wanted(&known, &part.me, &part.members) == Some(Wanted::Clear) => clear(part, &known),
        _ => Ok(()),
    }
}

/// What this node has confirmed of a dead master, where the application was taken over elsewhere from an older set, or from none.
fn set_aside_unused(part: &Part, known: &Known) -> Result<(), Error> {
    let Some(last) = known.replica(&part.me).last.filter(|last| last.deploy_id != known.record.deploy_id) else { return Ok(()) };
    let done = orders::all_done(&part.here.consul, part.name)?;
    let Some((takeover, was_in_force)) = taken_over(&done, &last.deploy_id) else { return Ok(()) };
    // What was in force then is set aside whatever clocks say.
    let taken = newest(last.snapshots.values());
    let is_newer = |chosen: &Snapshot| Time::parse(chosen.taken()).zip(taken).is_some_and(|(chosen, taken)| chosen >= taken);
    if !was_in_force && takeover.snapshots.values().any(is_newer) {
        return Ok(());
    }
    let unused = last.names().filter(|name| !takeover.snapshots.values().any(|chosen| chosen == *name));
    set_aside(part, unused, "of a master that died: it was confirmed, and the application went on from another set")
}

pub fn set_aside<'s>(part: &Part, names: impl Iterator<Item = &'s Snapshot>, what: &str) -> Result<(), Error> {
    let (here, set_aside) = (part.here, own::all(part.here)?);
    for name in names.filter(|name| !set_aside.contains(&***name)) {
        if matches!(replicas::look(here, name, None)?, Some(Seen::Whole)) {
            own::remember(here, name, Some(what))?;
            info!("{}: {name} is set aside", part.name);
        }
    }
    Ok(())
}

/// What the history has forgotten may have been.
fn may_be_needed(done: &[Order], deploy_id: &str) -> bool {
    !done.iter().any(|order| *order.id == *deploy_id) || taken_over(done, deploy_id).is_some()
}

/// By which order of those that are done, the last one first, the application has come from another set since that deploy: a move brings what there
/// is. And whether that deploy was in force then. That its master is back says nothing: its disk may be new.
fn taken_over<'o>(done: &'o [Order], deploy_id: &str) -> Option<(&'o Order, bool)> {
    let of_it = done.iter().position(|order| *order.id == *deploy_id);
    let at = done[..of_it.unwrap_or(done.len())].iter().rposition(|order| order.origin == Some(Origin::Dead))?;
    Some((&done[at], of_it == Some(at + 1)))
}

fn is_here(here: &Here, set: &Set) -> bool {
    set.names().all(|name| here.world.subvolume(&here.snapshot(name)).is_ok_and(|found| found.is_some()))
}

fn look(part: &mut Part, known: &Known) -> Result<(), Error> {
    let (here, name) = (part.here, part.name);
    let Some(next) = known.replica(&part.me).next else { return Ok(()) };
    let set = next.set;
    if let Some(flaw) = judge(here, &set)? {
        warn!("{name}: the set of {} is not to be believed: {flaw}", set.taken);
        // All that there is, perhaps.
        if part.lives(&known.record.master) {
            part.void(&part.me, &set, &flaw.to_string(), true)?;
        }
        return Ok(());
    }
    // What was received is in memory until now: a power failure would leave it whole by its looks, and empty.
    here.world.sync_disk(&here.settings.snapshots)?;
    if here.world.boot()? != set.boot {
        return Ok(());
    }
    let held = part.change_under(known, &part.me, |replica| {
        let same = replica.next.as_ref().is_some_and(|next| next.set.snapshots == set.snapshots);
        if same {
            confirmed(replica, set.clone());
        }
        same
    })?;
    if held { part.book.add(here, name, &set, known.every()) } else { Ok(()) }
}

/// What an overtaken sender is perhaps still sending has to be known when it comes.
fn can_go(here: &Here, known: &Known, void_of: &BTreeMap<Snapshot, String>, name: &Snapshot) -> bool {
    let overtaken = void_of.get(name).is_some_and(|of| **of != *known.record.deploy_id);
    let on_its_way = || Time::parse(name.taken()).is_some_and(|taken| here.world.clock.now().since(taken) < here.settings.timeouts.send);
    let is_there = || !matches!(here.world.subvolume(&here.snapshot(name)), Ok(None));
    !overtaken || is_there() || !on_its_way()
}

/// Whether something of what is void here can go now.
pub fn clears(here: &Here, known: &Known, me: &NodeName) -> bool {
    let Replica { void, void_of, .. } = known.replica(me);
    void.iter().any(|name| can_go(here, known, &void_of, name))
}

/// What stays of what is void, where btrfs calls it whole: that its master lives does not say that it has its data still. Beside a confirmed set it
/// is what was called void last: the disk may have no room for more. Without one it is the last set of which all is whole; without that, the last
/// of each volume.
fn best(here: &Here, known: &Known, replica: &Replica) -> Result<BTreeSet<Snapshot>, Error> {
    let mut whole = BTreeSet::new();
    for name in replica.void.iter().chain(replica.void_sets.values().flatten()) {
        if matches!(replicas::look(here, name, None)?, None | Some(Seen::Whole)) {
            whole.insert(name);
        }
    }
    // In the order in which they were called so, whatever clocks say.
    let at = |set: &&Vec<Snapshot>| replica.void.iter().rposition(|name| set.contains(name));
    let is_confirmed = replica.last.as_ref().is_some_and(|last| known.in_force(last));
    let is_whole = |set: &Vec<Snapshot>| {
        let volumes = &known.record.volumes;
        volumes.iter().all(|volume| set.iter().any(|name| name.volume() == *volume && whole.contains(name)))
    };
    let set = replica.void_sets.values().filter(|set| is_confirmed || is_whole(set)).max_by_key(at);
    let of_each = || replica.void.iter().filter(|name| whole.contains(name)).map(|name| (name.volume(), name)).collect::<BTreeMap<_, _>>();
    Ok(set.map_or_else(|| of_each().into_values().cloned().collect(), |set| set.iter().cloned().collect()))
}

/// Removes what is void, but what something else names, and what a master that died may have called so wrongly. What is whole and [`best`] stays
/// until something newer is confirmed.
fn clear(part: &Part, known: &Known) -> Result<(), Error> {
    let Some(_lock) = part.at_rest()? else { return Ok(()) };
    let replica = known.replica(&part.me);
    let best = best(part.here, known, &replica)?;
    let Replica { void, void_of, .. } = replica;
    // Whoever has confirmed it.
    let confirmed = known.replicas.values().filter_map(|replica| replica.last.as_ref()).filter(|last| known.in_force(last));
    let newest = confirmed.filter_map(|last| newest(last.snapshots.values())).max();
    let done = orders::all_done(&part.here.consul, part.name)?;
    let mut goes = Vec::new();
    for name in void {
        // An older handler says nothing of what it was taken under.
        let of = void_of.get(&name).or(known.record.previous_deploy_id.as_ref()).filter(|of| **of != *known.record.deploy_id);
        if !can_go(part.here, known, &void_of, &name) {
            continue;
        }
        let is_older = || Time::parse(name.taken()).zip(newest).is_some_and(|(taken, newest)| taken < newest);
        if of.is_some_and(|deploy_id| may_be_needed(&done, deploy_id)) {
            // Named there, it goes from the key.
            let what = "of a master that died: nobody has confirmed it, and the application went on from another set";
            set_aside(part, [&name].into_iter(), what)?;
        } else if best.contains(&name) && !is_older() && matches!(replicas::look(part.here, &name, None)?, None | Some(Seen::Whole)) {
            continue;
        }
        goes.push(name);
    }
    let left = part.remove(goes.iter(), &part.book)?;
    part.change(&part.me, |replica| {
        let before = replica.void.len();
        replica.clear_void(|name| goes.contains(name) && !left.contains(name));
        replica.void.len() != before
    })
}
