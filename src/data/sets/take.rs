//! The master's part: a set is taken, written down, told, and sent.

use std::collections::{BTreeMap, BTreeSet};

use log::{info, warn};

use super::book::Book;
use super::{Known, Part, can_hold, confirm, confirmed, fail, purge};
use crate::about;
use crate::data::{own, parents, replicas};
use crate::error::{Error, Fault, text_of};
use crate::here::Here;
use crate::model::json;
use crate::model::names::{NodeName, Snapshot, Volume};
use crate::model::replica::{EVERY, Next, Replica, Set, Taken};
use crate::model::time::Time;
use crate::outside::doors::Lock;

const MOST: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    Take,
    /// What was on its way is not of what is in force any more.
    Overtaken,
    /// The sender has come to its end, in whatever way: the holder is to look.
    Sent,
}

/// What `me` has to do as the master, where nobody is at it.
pub fn wanted(known: &Known, me: &NodeName, now: Time) -> Option<Wanted> {
    if known.record.master != *me || known.record.volumes.is_empty() {
        return None;
    }
    let replica = known.replica(known.holder());
    match &replica.next {
        Some(next) if !known.in_force(&next.set) => Some(Wanted::Overtaken),
        Some(next) => (!next.sent).then_some(Wanted::Sent),
        None => (replica.due_in(&known.record, now) == 0).then_some(Wanted::Take),
    }
}

pub fn serve(part: &mut Part) -> Result<(), Error> {
    // What is void is followed by a new one.
    for _ in 0..2 {
        let Some(known) = part.known()? else { return Ok(()) };
        let (holder, next) = (known.holder().clone(), known.replica(known.holder()).next);
        let asked = part.now && next.is_none() && known.record.master == part.me && !known.record.volumes.is_empty();
        let wanted = if asked { Some(Wanted::Take) } else { wanted(&known, &part.me, part.here.world.clock.now()) };
        match (wanted, next) {
            (Some(Wanted::Take), _) => return take(part, &known, &holder),
            (Some(Wanted::Overtaken), Some(next)) => {
                info!("{}: the set of {} was overtaken by a deploy: void", part.name, next.set.taken);
                part.void(&holder, &next.set, "overtaken by a deploy", false)?;
                discard(part, &holder, &next.set)?;
            }
            (Some(Wanted::Sent), Some(next)) => {
                warn!("{}: who sent the set of {} was killed; {holder} looks what has arrived", part.name, next.set.taken);
                return say_sent(part, &holder, &next.set, 0);
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn take(part: &mut Part, known: &Known, holder: &NodeName) -> Result<(), Error> {
    let here = part.here;
    let boot = match *holder == part.me {
        true => here.world.boot()?,
        false => {
            let about = about::read(here, holder)?;
            if !can_hold(holder, &about, &part.members) {
                return Ok(());
            }
            about.boot
        }
    };
    let began = here.world.clock.uptime();
    let Some(lock) = part.at_rest()? else { return Ok(()) };
    // Under the lock: an order may have come and gone.
    if part.known()?.is_none_or(|now| now.index != known.index) {
        return Ok(());
    }
    let void = Void { there: known.replica(holder).not_to_send(), holder };
    let mut set = Set {
        snapshots: Default::default(),
        taken: here.world.clock.now().rfc3339(),
        master: part.me.clone(),
        deploy_id: known.record.deploy_id.clone(),
        data_id: known.record.data_id().clone(),
        boot,
        millis: 0,
        counted: None,
        destroy: None,
        found: Default::default(),
        replaced: false,
        unknown: Default::default(),
    };
    if let Err(why) = snapshots(part, known, &void, &mut set, &lock) {
        warn!("{}: no set can be taken: {why}", part.name);
        part.remove(set.made(), &part.book)?;
        return failed(part, known, holder, &why.to_string());
    }
    drop(lock);
    set.millis = (here.world.clock.uptime() - began).as_millis() as u64;
    set.found.clear();
    // Told before anything is sent, by whoever is the master by the record that it was taken under.
    let (every, keep) = rule(part, known);
    if *holder == part.me {
        here.world.sync_disk(&here.settings.snapshots)?;
    }
    let told = part.change_under(known, holder, |replica| {
        // Its names would be lost.
        if replica.next.is_some() {
            return false;
        }
        (replica.every, replica.keep) = (every, keep);
        (replica.tried, replica.tried_of) = (Some(set.taken.clone()), Some(set.data_id.clone()));
        match *holder == part.me {
            true => confirmed(replica, set.clone()),
            false => replica.next = Some(Next { set: set.clone(), sent: false }),
        }
        true
    });
    if !matches!(told, Ok(true)) {
        info!("{}: the record has changed, or nothing is known of it: the set of {} is not sent", part.name, set.taken);
        return told.and(discard(part, holder, &set));
    }
    if *holder == part.me {
        return Ok(());
    }
    match send(part, known, holder, &set) {
        Ok(()) => say_sent(part, holder, &set, (here.world.clock.uptime() - began).as_millis() as u64),
        Err(why) => {
            warn!("{}: the set of {} was not sent to {holder}: {why}", part.name, set.taken);
            part.void(holder, &set, &why.to_string(), true)?;
            discard(part, holder, &set)
        }
    }
}

/// What is on the holder, and does not count as whole there: it is not sent again, over what is there.
struct Void<'k> {
    there: BTreeSet<Snapshot>,
    holder: &'k NodeName,
}

impl Void<'_> {
    /// A newer plugin takes none of a volume that nobody has written to, and names the one before: that goes, and another one stands for it.
    fn renewed(&self, part: &mut Part, mine: &BTreeSet<Snapshot>, old: Snapshot) -> Result<Snapshot, Error> {
        if !self.there.contains(&old) {
            return Ok(old);
        }
        let here = part.here;
        if mine.contains(&old) {
            part.remove_but([&old].into_iter(), &needed(part, self.holder)?, &Book { sets: Vec::new() })?;
        }
        let snapshot = here.plugin().snapshot(&old.volume())?;
        if snapshot == old {
            return Err(Fault::VoidThere { snapshot, holder: self.holder.clone() }.into());
        }
        let uuid = uuid(here, &snapshot)?;
        part.book.replace(here, part.name, &old, &Taken { snapshot: snapshot.clone(), uuid })?;
        Ok(snapshot)
    }
}

/// What keys name, as far as the master needs it here. What a former holder has it has on a disk of its own.
fn needed(part: &Part, holder: &NodeName) -> Result<BTreeSet<Snapshot>, Error> {
    part.named(&|known| *known == **holder || *known == *part.me)
}

fn uuid(here: &Here, snapshot: &Snapshot) -> Result<String, Error> {
    let found = here.world.subvolume(&here.snapshot(snapshot))?;
    let found = found.ok_or_else(|| Fault::Unseen { snapshot: snapshot.clone(), folder: here.settings.snapshots.clone() })?;
    Ok(found.stands_for().into())
}

/// One right after the other; then what btrfs calls them. All of it is written down before the lock is let go.
///
/// Of a volume that nobody has written to a newer plugin takes none, and names the one before.
fn snapshots(part: &mut Part, known: &Known, void: &Void, set: &mut Set, _rests: &Lock) -> Result<(), Error> {
    let (here, plugin) = (part.here, part.here.plugin());
    let mine: BTreeSet<Snapshot> = part.book.sets.iter().flat_map(Set::made).cloned().collect();
    name_unfinished(part, known)?;
    let mut there = Begun::new();
    for volume in &known.record.volumes {
        // At rest: what comes from now on is not what an order had in mind that was given up.
        own::ended(here, volume)?;
        there.insert(volume.clone(), plugin.snapshots(volume)?);
    }
    let begun = here.paths.begun(part.name);
    here.world.replace_file(&begun, &text_of(begun.display(), &there)?, true)?;
    set.found.extend(there.into_values().flatten().filter(|there| !mine.contains(there)));
    for volume in &known.record.volumes {
        let snapshot = void.renewed(part, &mine, plugin.snapshot(volume)?)?;
        set.snapshots.insert(volume.clone(), Taken { snapshot, uuid: String::new() });
    }
    for taken in set.snapshots.values_mut() {
        taken.uuid = uuid(here, &taken.snapshot)?;
    }
    let Set { snapshots, found, .. } = set;
    found.retain(|found| snapshots.values().any(|taken| taken.snapshot == *found));
    part.book.add(here, part.name, set, known.every())?;
    Ok(here.world.remove_file(&begun)?)
}

/// What was there when a set was begun.
type Begun = BTreeMap<Volume, Vec<Snapshot>>;

/// Who is killed over a set, or hears nothing of the plugin in time, does not know what that has taken. What has come since and stands nowhere may
/// be a person's, too: it is set aside, so that it is named.
fn name_unfinished(part: &Part, known: &Known) -> Result<(), Error> {
    let (here, path) = (part.here, part.here.paths.begun(part.name));
    let Some(text) = here.world.read_file(&path, MOST)? else { return Ok(()) };
    let mut named = part.book.names();
    named.extend(known.replicas.values().flat_map(Replica::sets).flat_map(Set::names).cloned());
    // What cannot be read names nothing.
    for (volume, there) in json::read::<Begun>(&text).unwrap_or_default() {
        let come = own::made(here, &volume, |snapshot| !there.contains(snapshot) && !named.contains(snapshot))?;
        confirm::set_aside(part, come.iter(), "taken while a set was begun that was not finished, or since; nobody knows for whom")?;
    }
    Ok(here.world.remove_file(&path)?)
}

/// Once: what has failed is not sent again, a later set is.
fn send(part: &Part, known: &Known, holder: &NodeName, set: &Set) -> Result<(), Error> {
    let (here, address, last) = (part.here, part.here.address_of(holder)?, known.replica(holder).last);
    parents::only(here, &address, &known.record.volumes, last.as_ref())?;
    // Of a volume that nobody has written to a newer plugin names the snapshot that it has taken before.
    let there = |volume, taken: &Taken| last.as_ref().is_some_and(|last| last.snapshots.get(volume) == Some(taken));
    for (_, taken) in set.snapshots.iter().filter(|(volume, taken)| !there(*volume, taken)) {
        // A send may take hours, and deploys do not wait for it.
        let next = replicas::read(here, part.name, holder)?.0.next;
        if next.is_none_or(|next| next.set.snapshots != set.snapshots) {
            return Err(Fault::RecordChanged { app: part.name.clone() }.into());
        }
        here.plugin().send_once(&taken.snapshot, &address)?;
    }
    Ok(())
}

fn say_sent(part: &Part, holder: &NodeName, set: &Set, millis: u64) -> Result<(), Error> {
    let now = part.here.world.clock.now().rfc3339();
    part.change(holder, |replica| match &mut replica.next {
        Some(next) if next.set.snapshots == set.snapshots && !next.sent => {
            replica.tried = Some(now.clone());
            next.sent = true;
            next.set.millis = millis.max(next.set.millis);
            true
        }
        _ => false,
    })
}

fn failed(part: &Part, known: &Known, holder: &NodeName, why: &str) -> Result<(), Error> {
    let now = part.here.world.clock.now().rfc3339();
    part.change(holder, |replica| {
        (replica.tried, replica.tried_of) = (Some(now.clone()), Some(known.record.data_id().clone()));
        fail(replica, why);
        true
    })
}

/// A set of this node's own that came to nothing. Where something is at work the keep rule sees to it later.
fn discard(part: &mut Part, holder: &NodeName, set: &Set) -> Result<(), Error> {
    match part.at_rest()? {
        Some(_lock) if part.book.has(set) => {
            let needed = needed(part, holder)?;
            let of_it = part.book.sets.iter().filter(|known| known.snapshots == set.snapshots).cloned().collect();
            // What a key names all the same stands in the book, or nobody would ever purge it.
            part.strike_but(&purge::free(of_it, &part.book.sets, &needed), &needed)
        }
        _ => Ok(()),
    }
}

/// What the compose file says of how often, and of what is kept. Where it cannot be read, what was told before; else nothing is purged.
fn rule(part: &Part, known: &Known) -> (u32, String) {
    match part.here.resolved(part.name, &known.record.deploy_id) {
        Ok(Some(compose)) => (compose.every, compose.keep.to_string()),
        said => {
            let why = said.err().map_or_else(|| "its compose file is not there as it was resolved".into(), |why| why.to_string());
            warn!("{}: {why}; what is replicated, and what is kept, is as it was", part.name);
            known.rule().map_or((EVERY, String::new()), |(every, keep)| (every, keep.into()))
        }
    }
}
