//! The handler replicates: sets of an application's data are taken, sent, confirmed, kept and purged. Their form is
//! [`Replica`](crate::model::replica). What must hold:
//!
//! - A set is taken while no order and no journal of the application is at work here: nothing of a failed version is ever in one. It is
//!   taken again only after what became of the one before is known.
//! - What is sent stands in Consul before it is sent, in a transaction that checks the record: a former master writes nothing.
//! - Who holds it confirms it by what btrfs says, in the boot that was told before it was sent, and only after its disk has been synced; in a
//!   transaction that checks the record again. What cannot be read decides nothing.
//! - What was confirmed and is not there any more its holder strikes from its key while the master lives: the next one is sent whole.
//! - What is not whole goes only while the master lives: of a dead one it may be all that there is.
//! - Only what this node has itself written down is purged, only at rest, and never what a key, a mark or the list of what is set aside names.
//!
//! A set never runs in an order's way: only while snapshots are taken or removed it holds the lock of the application's worker, and where that
//! is held it is left to a later check.

pub mod book;
mod confirm;
mod left;
mod purge;
mod take;

use std::collections::{BTreeMap, BTreeSet};

use log::{debug, info, warn};
use serde::de::IgnoredAny;

use self::book::Book;
pub use self::left::{Left, leave, read as read_left};
use super::{own, replicas, schedules};
use crate::about::{self, About};
use crate::error::{Error, in_consul, text_of};
use crate::here::Here;
use crate::model::maintenance::Maintenance;
use crate::model::members::{self, Member};
use crate::model::names::{AppName, NodeName, Snapshot};
use crate::model::record::Record;
use crate::model::replica::{Replica, Set};
use crate::model::{json, keys};
use crate::orders::{self, Open};
use crate::outside::consul::Op;
use crate::outside::doors::Lock;

/// Tries to change a key that others change, too.
const TRIES: usize = 10;

/// What Consul has of one application.
pub struct Known {
    pub name: AppName,
    pub record: Record,
    /// Of the record.
    index: u64,
    /// By holder.
    pub replicas: BTreeMap<NodeName, Replica>,
}

impl Known {
    fn read(here: &Here, name: &AppName) -> Result<Option<Known>, Error> {
        // The record first: what is written under it later checks its index.
        let Some(entry) = here.consul.get(&keys::app(name))? else { return Ok(None) };
        let mut known =
            Known { name: name.clone(), record: in_consul(&entry, "a record")?, index: entry.modify_index, replicas: BTreeMap::new() };
        for entry in here.consul.list(&keys::replicas(name))? {
            if let Ok(holder) = NodeName::try_from(entry.key.trim_start_matches(&keys::replicas(name))) {
                known.replicas.insert(holder, replicas::parse(&entry)?);
            }
        }
        Ok(Some(known))
    }

    /// Of the code, the data and the master that are in force.
    fn in_force(&self, set: &Set) -> bool {
        set.is_of(&self.record) && set.master == self.record.master
    }

    /// Who is to hold what the master takes.
    pub fn holder(&self) -> &NodeName {
        self.record.slave.as_ref().unwrap_or(&self.record.master)
    }

    fn replica(&self, holder: &NodeName) -> Replica {
        self.replicas.get(holder).cloned().unwrap_or_default()
    }

    /// Minutes from one set to the next.
    fn every(&self) -> u32 {
        self.replica(self.holder()).every()
    }

    /// What was told of how often, and of what is kept, with a set of what is in force: an earlier version may have said otherwise.
    fn rule(&self) -> Option<(u32, &str)> {
        let in_force = |set: &Set| set.deploy_id == self.record.deploy_id && set.master == self.record.master;
        let of_it = |replica: &&Replica| replica.sets().any(in_force) && !replica.keep.is_empty();
        self.replicas.values().find(of_it).map(|replica| (replica.every, &*replica.keep))
    }
}

/// What is known of all of them, to tell what is due.
pub struct Seen {
    pub apps: Vec<Known>,
    pub nodes: BTreeMap<NodeName, About>,
    pub members: Vec<Member>,
    /// Why keys of replicas cannot be read.
    pub unreadable: Vec<Error>,
}

/// What is no record is somebody else's to tell of.
pub fn look(here: &Here) -> Result<Seen, Error> {
    let (mut replicas, mut unreadable): (BTreeMap<AppName, BTreeMap<NodeName, Replica>>, Vec<Error>) = Default::default();
    for entry in here.consul.list(keys::REPLICAS)? {
        let Some((name, holder)) = entry.key.trim_start_matches(keys::REPLICAS).split_once('/') else { continue };
        let (Ok(name), Ok(holder)) = (AppName::try_from(name), NodeName::try_from(holder)) else { continue };
        match replicas::parse(&entry) {
            Ok(replica) => drop(replicas.entry(name).or_default().insert(holder, replica)),
            Err(why) => unreadable.push(why),
        }
    }
    let members = here.consul.members()?;
    let mut seen = Seen { apps: Vec::new(), nodes: BTreeMap::new(), members, unreadable };
    for entry in here.consul.list(keys::APPS)? {
        if let (Ok(name), Ok(record)) = (AppName::try_from(entry.key.trim_start_matches(keys::APPS)), json::read(&entry.value)) {
            let replicas = replicas.remove(&name).unwrap_or_default();
            seen.apps.push(Known { name, record, index: entry.modify_index, replicas });
        }
    }
    for entry in here.consul.list(keys::NODES)? {
        if let (Ok(node), Ok(about)) = (NodeName::try_from(entry.key.trim_start_matches(keys::NODES)), json::read(&entry.value)) {
            seen.nodes.insert(node, about);
        }
    }
    Ok(seen)
}

/// The applications for whose sets this node has something to do now, and is not at it.
pub fn due(here: &Here, seen: &Seen, open: &[Open]) -> Result<BTreeSet<AppName>, Error> {
    let mut due = BTreeSet::new();
    // A node that cannot look neither takes nor confirms.
    if seen.apps.is_empty() || !here.sees_snapshots()? {
        return Ok(due);
    }
    let (me, now) = (here.me()?, here.world.clock.now());
    for known in &seen.apps {
        let ordered = orders::at_work(open).any(|order| order.keeps().contains(&known.name));
        let able = |holder: &NodeName| holder == me || seen.nodes.get(holder).is_some_and(|about| can_hold(holder, about, &seen.members));
        let holds = match confirm::wanted(known, me, &seen.members) {
            Some(confirm::Wanted::Clear) => !ordered && confirm::clears(here, known, me),
            // Of a dead master nothing but a set that is whole is anything to act on.
            Some(confirm::Wanted::Judge) => {
                members::alive(&seen.members, &known.record.master)
                    || known.replica(me).next.is_some_and(|next| confirm::is_whole(here, &next.set))
            }
            Some(confirm::Wanted::Overtaken) => true,
            None => false,
        };
        let holds = holds || confirm::lost(here, known, me, &seen.members).is_some();
        let serves = match take::wanted(known, me, now) {
            Some(take::Wanted::Take) => !ordered && able(known.holder()),
            wanted => wanted.is_some(),
        };
        // Whoever holds the lock is at it.
        let free = || here.world.try_lock_file(&here.paths.sets(&known.name).1).map_or(true, |lock| lock.is_some());
        if (holds || serves) && free() {
            due.insert(known.name.clone());
        }
    }
    Ok(due)
}

/// Why what this node has written down of its sets cannot be read: none are taken, confirmed or purged then. A health check asks for each
/// application: it is looked at, and not taken apart.
pub fn unreadable(here: &Here, name: &AppName) -> Option<Error> {
    book::parsed::<IgnoredAny>(here, name).err()
}

fn can_hold(node: &NodeName, about: &About, members: &[Member]) -> bool {
    about.confirms && !about.boot.is_empty() && members::alive(members, node)
}

/// The snapshots of what this node has taken or confirmed.
pub fn written_down(here: &Here, name: &AppName) -> Result<BTreeSet<Snapshot>, Error> {
    Ok(Book::read(here, name)?.names())
}

/// This node's part in the sets of one application. `now`: its master takes one, whether it is due or not. `busy`: whether it is in the middle of something with it.
pub fn replicate(here: &Here, name: &AppName, now: bool, busy: &dyn Fn() -> Result<bool, Error>) -> Result<(), Error> {
    if !here.sees_snapshots()? {
        debug!("{name}: the plugin's snapshots are not seen here; nothing is taken and nothing confirmed");
        return Ok(());
    }
    here.paths.prepare_app(&here.world, name)?;
    let Some(_lock) = here.world.try_lock_file(&here.paths.sets(name).1)? else {
        debug!("{name}: its sets are seen to already");
        return Ok(());
    };
    // Whoever sends here has to know the present boot.
    about::tell(here)?;
    let (me, members) = (here.me()?.clone(), here.consul.members()?);
    let mut part = Part { here, name, me, members, now, busy, book: Book::read(here, name)? };
    let left = left::take_in(&mut part);
    let held = confirm::hold(&mut part);
    let served = take::serve(&mut part);
    let purged = purge::purge(&mut part);
    // A person may have paused all of them.
    if let Err(why) = part.end_schedules() {
        warn!("{name}: the plugin's own schedules are left: {why}");
    }
    left.and(held).and(served).and(purged)
}

/// A run's part in one application, under the lock of its sets.
struct Part<'a> {
    here: &'a Here,
    name: &'a AppName,
    me: NodeName,
    members: Vec<Member>,
    /// A set is wanted, due or not.
    now: bool,
    busy: &'a dyn Fn() -> Result<bool, Error>,
    book: Book,
}

impl Part<'_> {
    fn known(&self) -> Result<Option<Known>, Error> {
        Known::read(self.here, self.name)
    }

    fn lives(&self, node: &NodeName) -> bool {
        members::alive(&self.members, node)
    }

    /// The lock of the application's worker, if no order and no journal is at work.
    fn at_rest(&self) -> Result<Option<Lock>, Error> {
        let Some(lock) = self.here.world.try_lock_file(&self.here.paths.worker_locks(self.name).0)? else { return Ok(None) };
        let ordered = orders::at_work(&orders::open(&self.here.consul)?).any(|order| order.keeps().contains(self.name));
        // What an order has left stopped, given up perhaps, holds what nobody has called good.
        let left = self.here.consul.get(&keys::maintenance(self.name))?;
        let left = left.is_some_and(|entry| Maintenance::read(&entry.value).order.is_some());
        Ok((!ordered && !left && !(self.busy)()?).then_some(lock))
    }

    /// Removes snapshots that are here, but those that something names; answers those that the plugin cannot remove. At rest.
    fn remove<'s>(&self, names: impl Iterator<Item = &'s Snapshot>, kept: &Book) -> Result<BTreeSet<Snapshot>, Error> {
        self.remove_but(names, &self.named(&|_| true)?, kept)
    }

    fn remove_but<'s>(
        &self,
        names: impl Iterator<Item = &'s Snapshot>,
        named: &BTreeSet<Snapshot>,
        kept: &Book,
    ) -> Result<BTreeSet<Snapshot>, Error> {
        let mut left = BTreeSet::new();
        let (own, kept, plugin) = (own::all(self.here)?, kept.names(), self.here.plugin());
        for name in names.filter(|name| !named.contains(*name) && !own.contains(&***name) && !kept.contains(*name)) {
            if self.here.world.subvolume(&self.here.snapshot(name))?.is_none() {
                continue;
            }
            // Its marks go with it: nobody would ever remove them.
            let marks = plugin.all_marks(&name.volume())?.into_iter().filter(|mark| mark.starts_with(&format!("{name}@")));
            match marks.chain([name.to_string()]).try_for_each(|it| plugin.remove(&it)) {
                Err(why) if why.is_answer() => {
                    warn!("{}: {name} cannot be removed, and stays: {why}", self.name);
                    left.insert(name.clone());
                }
                removed => removed?,
            }
        }
        Ok(left)
    }

    /// What keys name, and what is written down here of other applications: a migrate brings what is also another's. `counts`: which of this
    /// application's holders do.
    fn named(&self, counts: &dyn Fn(&str) -> bool) -> Result<BTreeSet<Snapshot>, Error> {
        let (mut named, own) = (BTreeSet::new(), keys::replicas(self.name));
        for entry in self.here.consul.list(keys::REPLICAS)?.iter().filter(|entry| entry.key.strip_prefix(&own).is_none_or(counts)) {
            named.extend(replicas::parse(entry)?.sets().flat_map(Set::names).cloned());
        }
        for other in self.here.apps()?.iter().filter(|other| *other != self.name) {
            named.extend(Book::read(self.here, other)?.names());
        }
        Ok(named)
    }

    /// Removes what this node has written down; what cannot be removed stays there. At rest.
    fn strike(&mut self, goes: &[Set]) -> Result<(), Error> {
        let named = self.named(&|_| true)?;
        self.strike_but(goes, &named)
    }

    fn strike_but(&mut self, goes: &[Set], named: &BTreeSet<Snapshot>) -> Result<(), Error> {
        let is_gone = |set: &Set| goes.iter().any(|gone| gone.snapshots == set.snapshots);
        let (goes, stays): (Vec<Set>, Vec<Set>) = self.book.sets.iter().cloned().partition(is_gone);
        let left = self.remove_but(goes.iter().flat_map(Set::made), named, &Book { sets: stays })?;
        let gone: Vec<Set> = goes.iter().filter(|set| !set.names().any(|name| left.contains(name))).cloned().collect();
        self.book.strike(self.here, self.name, &gone)
    }

    /// Changes what a node holds, whoever else does so at the same time. `change` says whether there is anything to change.
    fn change(&self, holder: &NodeName, mut change: impl FnMut(&mut Replica) -> bool) -> Result<(), Error> {
        for _ in 0..TRIES {
            let (mut replica, index) = replicas::read(self.here, self.name, holder)?;
            if !change(&mut replica) {
                return Ok(());
            }
            let key = keys::replica(self.name, holder);
            if self.here.consul.cas(&key, &text_of(&key, &replica)?, index)?.is_some() {
                return Ok(());
            }
        }
        debug!("{}: {holder}'s replica is changed by others all the time; a later check sees to it", self.name);
        Ok(())
    }

    /// The same once, if the record is still the one that is known; whether it held.
    fn change_under(&self, known: &Known, holder: &NodeName, change: impl FnOnce(&mut Replica) -> bool) -> Result<bool, Error> {
        let (mut replica, index) = replicas::read(self.here, self.name, holder)?;
        if !change(&mut replica) {
            return Ok(false);
        }
        let (app, key) = (keys::app(self.name), keys::replica(self.name, holder));
        let text = text_of(&key, &replica)?;
        Ok(self.here.consul.transaction(&[Op::CheckIndex(&app, known.index), Op::Cas(&key, &text, index)])?)
    }

    /// What is on its way is not to be believed; the holder removes it. `failed`: it counts.
    fn void(&self, holder: &NodeName, set: &Set, why: &str, failed: bool) -> Result<(), Error> {
        let now = self.here.world.clock.now().rfc3339();
        self.change(holder, |replica| {
            if replica.next.as_ref().is_none_or(|next| next.set.snapshots != set.snapshots) {
                return false;
            }
            replica.next = None;
            replica.call_void(set);
            if failed {
                fail(replica, why);
            }
            // A holder's clock may say something else.
            if failed && set.master == self.me {
                replica.tried = Some(now.clone());
            }
            true
        })
    }

    /// What the plugin did by itself before sets were confirmed: an older handler's schedules, but not those of an operator.
    fn end_schedules(&self) -> Result<(), Error> {
        let Some(known) = self.known()? else { return Ok(()) };
        let mine = known.record.master == self.me || known.record.slave.as_ref() == Some(&self.me);
        if mine && known.replica(known.holder()).last.is_some_and(|last| known.in_force(&last)) {
            schedules::end_ours(self.here, &known.record.volumes)?;
        }
        Ok(())
    }
}

/// One more that did not come to its end.
fn fail(replica: &mut Replica, why: &str) {
    replica.failures += 1;
    replica.reason = Some(why.into());
}

/// `last` it is from now on.
fn confirmed(replica: &mut Replica, set: Set) {
    info!("a set of {} snapshots, taken {}, is confirmed", set.snapshots.len(), set.taken);
    (replica.last, replica.next, replica.failures, replica.reason) = (Some(set), None, 0, None);
}
