//! What a takeover starts from.
//!
//! What must hold: one confirmed set, whole, never mixed with another, taken under the record that is in force. Anything else only by its exact
//! name, which a person has to give. What it does not use of what is newer is set aside.

use std::collections::{BTreeMap, BTreeSet};

use super::sets::book::Book;
use super::{own, replicas};
use crate::error::{Elsewhere, Error, Fault, Unusable, text_of};
use crate::here::Here;
use crate::model::keys;
use crate::model::members;
use crate::model::names::{AppName, NodeName, Snapshot, Volume};
use crate::model::order::{Deploy, Request};
use crate::model::record::Record;
use crate::model::replica::{Replica, Seen, Set};
use crate::model::time::{self, Time};
use crate::orders;

/// One of each volume.
type Snapshots = BTreeMap<Volume, Snapshot>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub snapshots: Snapshots,
    /// What an operator is to know of it.
    pub notes: Vec<String>,
    /// Of newer sets, here: to be set aside.
    pub unused: Vec<Snapshot>,
}

/// To be asked again right before each restore. All that the record names is brought, whether the version that is to start declares it or not:
/// it stays with the application, as in a deploy on the same node. `taken`: what this very order has taken of what was here.
pub fn choose(here: &Here, name: &AppName, record: &Record, deploy: &Deploy, taken: &Snapshots) -> Result<Choice, Error> {
    let me = here.me()?;
    let replica = match replicas::read(here, name, me) {
        // What cannot be read confirms nothing.
        Err(Error::Json { .. }) if !deploy.replica.is_empty() => Replica::default(),
        read => read?.0,
    };
    let mut others = replicas::of_others(here, name)?;
    // What the dead master has itself is dead with it.
    others.retain(|(holder, _)| *holder != record.master);
    // Consul may have been put back: what this node has confirmed it has written down itself, too.
    let mut book = Book::read(here, name)?.sets;
    book.retain(|set| set.is_of(record));
    let taking = Taking { here, record, deploy, taken, replica, others, book, now: here.world.clock.now() };
    let mut choice = if deploy.replica.is_empty() { taking.confirmed(name)? } else { taking.by_name()? };
    taking.unused(&mut choice)?;
    for volume in record.volumes.iter().filter(|volume| !choice.snapshots.contains_key(*volume)) {
        choice.notes.push(match here.plugin().exists(volume)? {
            true => format!("{volume} has no replica here: it starts with what the volume of this name holds here"),
            false => format!("{volume} starts empty"),
        });
    }
    Ok(choice)
}

struct Taking<'a> {
    here: &'a Here,
    record: &'a Record,
    deploy: &'a Deploy,
    taken: &'a Snapshots,
    replica: Replica,
    /// What other nodes hold.
    others: Vec<(NodeName, Replica)>,
    /// What this node has confirmed of what is in force, the newest last.
    book: Vec<Set>,
    now: Time,
}

impl Taking<'_> {
    fn age(&self, taken: &str) -> String {
        Time::parse(taken).map_or("of unknown age".into(), |taken| time::age(self.now.since(taken)))
    }

    fn is_here(&self, snapshot: &Snapshot) -> Result<bool, Error> {
        Ok(self.here.plugin().snapshots(&snapshot.volume())?.contains(snapshot))
    }

    fn confirmed(&self, name: &AppName) -> Result<Choice, Error> {
        let elsewhere = self.newer_elsewhere()?;
        let why = match (&self.replica.last, &elsewhere) {
            _ if self.record.volumes.is_empty() => return Ok(Choice::default()),
            (Some(last), Some(newer)) if last.is_of(self.record) => Unusable::Newer { newer: newer.clone(), than: self.age(&last.taken) },
            (_, Some(elsewhere)) => Unusable::Elsewhere(elsewhere.clone()),
            (None, None) if !self.here.sees_snapshots()? => Unusable::CannotLook { folder: self.here.settings.snapshots.clone() },
            (None, None) => Unusable::None,
            (Some(last), None) if !last.is_of(self.record) => {
                Unusable::Before { what: before(self.here, name, self.record, last)?, age: self.age(&last.taken) }
            }
            (Some(last), None) => match self.flaw(last)? {
                Some(flaw) => flaw,
                None => {
                    let volumes = self.record.volumes.iter();
                    let chosen = volumes.filter_map(|volume| Some((volume.clone(), last.snapshots.get(volume)?.snapshot.clone())));
                    let snapshots: Snapshots = chosen.collect();
                    let names: Vec<&str> = snapshots.values().map(|snapshot| &**snapshot).collect();
                    let note = format!("from the confirmed set of {}, {} old: {}", last.taken, self.age(&last.taken), names.join(", "));
                    return Ok(Choice { snapshots, notes: vec![note], unused: Vec::new() });
                }
            },
        };
        let (found, missing, of_one) = self.candidates()?;
        let master = self.record.master.clone();
        if found.is_empty() && self.deploy.empty {
            let note = match elsewhere {
                Some(Elsewhere { holder, age, alive: true }) => return Err(Fault::SetElsewhere { master, holder, age }.into()),
                Some(Elsewhere { holder, age, .. }) => {
                    Some(format!("not used: {holder}, which is dead, has a confirmed set that is {age} old"))
                }
                None => None,
            };
            return Ok(Choice { notes: note.into_iter().collect(), ..Choice::default() });
        }
        let mut others = Choice { snapshots: found.clone(), ..Choice::default() };
        self.unused(&mut others)?;
        if found.is_empty() {
            return Err(Fault::NoReplica { master, volumes: missing, others: others.notes }.into());
        }
        let of = |(volume, snapshot): (&Volume, &Snapshot)| format!("of {volume} {snapshot}, {} old", self.age(snapshot.taken()));
        let here = found.iter().map(of).chain(missing.iter().map(|volume| format!("of {volume} none")));
        let of_more = (!of_one && found.len() > 1).then(|| "these are not of one moment".to_owned());
        let here = here.chain(of_more).chain(others.notes).collect();
        let again =
            Deploy { replica: found.into_values().collect(), empty: self.deploy.empty || !missing.is_empty(), ..self.deploy.clone() };
        let text = text_of("an order", &again)?;
        let order = format!("handler deploy '{}'", String::from_utf8_lossy(&text).replace('\'', r"'\''"));
        Err(Fault::NoSet { master, why: Box::new(why), here, order }.into())
    }

    /// What was handed over comes before all that the new master has sent, whatever the clocks of both say. `None`: it is not of what is in force,
    /// or does not say when it was taken.
    fn rank(&self, set: &Set) -> Option<(bool, Time)> {
        Some((set.master == self.record.master, Time::parse(&set.taken).filter(|_| set.is_of(self.record))?))
    }

    /// Another node may hold what is newer: a former master has the set that it handed over, the slave those since. The newest.
    fn newer_elsewhere(&self) -> Result<Option<Elsewhere>, Error> {
        let mine = self.replica.last.as_ref().and_then(|last| self.rank(last));
        let others = self.others.iter().filter_map(|(holder, replica)| Some((self.rank(replica.last.as_ref()?)?, holder, replica)));
        let newest = others.max_by(|a, b| a.0.cmp(&b.0)).filter(|(rank, ..)| mine.is_none_or(|mine| *rank > mine));
        let Some((holder, last)) = newest.and_then(|(_, holder, replica)| Some((holder, replica.last.as_ref()?))) else { return Ok(None) };
        let alive = members::alive(&self.here.consul.members()?, holder);
        Ok(Some(Elsewhere { holder: holder.clone(), age: self.age(&last.taken), alive }))
    }

    /// Why the set cannot be started from, though it was confirmed.
    fn flaw(&self, last: &Set) -> Result<Option<Unusable>, Error> {
        for volume in &self.record.volumes {
            let Some(taken) = last.snapshots.get(volume) else {
                if self.deploy.empty && self.newest(volume)?.is_none() {
                    continue;
                }
                return Ok(Some(Unusable::Lacks { volume: volume.clone() }));
            };
            let snapshot = taken.snapshot.clone();
            match replicas::look(self.here, &snapshot, Some(&taken.uuid))? {
                Some(Seen::Whole) | None if self.is_here(&snapshot)? => {}
                Some(Seen::Whole) | None => return Ok(Some(Unusable::NotWhole { snapshot, seen: Seen::Missing })),
                Some(seen) => return Ok(Some(Unusable::NotWhole { snapshot, seen })),
            }
        }
        Ok(None)
    }

    fn by_name(&self) -> Result<Choice, Error> {
        let mut choice = Choice::default();
        let confirmed = |snapshot: &Snapshot| self.replica.last.iter().flat_map(Set::names).any(|name| name == snapshot);
        for snapshot in &self.deploy.replica {
            let volume = snapshot.volume();
            if !self.record.volumes.contains(&volume) {
                return Err(Fault::NotOfData { snapshot: snapshot.clone(), volumes: self.record.volumes.clone() }.into());
            }
            if !self.is_here(snapshot)? {
                return Err(Fault::NotArrived { snapshot: snapshot.clone() }.into());
            }
            let doubt = if confirmed(snapshot) { "" } else { "; nobody has confirmed that it is whole" };
            choice.notes.push(format!("{volume}: {snapshot}, {} old, as the order says{doubt}", self.age(snapshot.taken())));
            choice.snapshots.insert(volume, snapshot.clone());
        }
        let missing: Vec<Volume> = self.record.volumes.iter().filter(|volume| !choice.snapshots.contains_key(*volume)).cloned().collect();
        if !missing.is_empty() && !self.deploy.empty {
            return Err(Fault::NotNamed { volumes: missing }.into());
        }
        Ok(choice)
    }

    /// What is here of other sets that are newer than what was chosen.
    fn unused(&self, choice: &mut Choice) -> Result<(), Error> {
        let next = self.replica.next.as_ref().map(|next| &next.set);
        let taken = choice.snapshots.values().filter_map(|snapshot| Time::parse(snapshot.taken()));
        let newest = taken.reduce(|a, b| if a < b { b } else { a });
        // What was on its way when that was the last is newer, whatever clocks have said.
        let is_last = |snapshot: &Snapshot| self.replica.last.iter().flat_map(Set::names).any(|name| name == snapshot);
        let of_last = !choice.snapshots.is_empty() && choice.snapshots.values().all(is_last);
        let written = self.book.last().filter(|set| self.replica.last.as_ref().is_none_or(|last| last.snapshots != set.snapshots));
        for (set, what) in [(self.replica.last.as_ref(), "confirmed"), (written, "confirmed"), (next, "newer, which nobody has confirmed")]
        {
            let by_time = |set: &&Set| Time::parse(&set.taken).zip(newest).is_none_or(|(taken, newest)| taken > newest);
            let Some(set) = set.filter(|set| by_time(set) || of_last && what != "confirmed") else { continue };
            let mut found = Vec::new();
            for snapshot in set.names() {
                if self.is_here(snapshot)? && self.is_sound(snapshot)? {
                    found.push(snapshot.clone());
                }
            }
            // Of a volume that nobody has written to both have the same.
            let unused: Vec<Snapshot> =
                found.iter().filter(|name| !choice.snapshots.values().any(|chosen| chosen == *name)).cloned().collect();
            if unused.is_empty() {
                continue;
            }
            let names: Vec<String> = found.iter().map(|snapshot| format!("{:?}", &**snapshot)).collect();
            let is_found = |volume: &Volume| set.snapshots.get(volume).is_some_and(|taken| found.contains(&taken.snapshot));
            let whole = if self.record.volumes.iter().all(is_found) { "" } else { ", not all of it" };
            choice.notes.push(format!(
                "not used: a set of {}, {} old, {what}{whole}; to start from it instead: \"replica\": [{}]",
                set.taken,
                self.age(&set.taken),
                names.join(", ")
            ));
            choice.unused.extend(unused);
        }
        // Of a dead master what was called void may be whole all the same, and all that there is.
        for snapshot in &self.replica.void {
            let is_newer = of_last || Time::parse(snapshot.taken()).zip(newest).is_none_or(|(taken, newest)| taken > newest);
            let is_used = choice.snapshots.values().chain(&choice.unused).any(|used| used == snapshot);
            let is_data = self.record.volumes.contains(&snapshot.volume());
            if is_newer && !is_used && is_data && self.is_here(snapshot)? && self.is_sound(snapshot)? {
                choice.notes.push(format!(
                    "not used: {snapshot}, {} old, which did not count as whole; to start from it instead: \"replica\": [\"{snapshot}\", …]",
                    self.age(snapshot.taken())
                ));
                choice.unused.push(snapshot.clone());
            }
        }
        // Consul was put back, perhaps: this node was its master once more than is known.
        for (snapshot, _) in own::aside(self.here)?.iter().filter(|(_, what)| *what == own::FENCED) {
            let is_newer = Time::parse(snapshot.taken()).zip(newest).is_none_or(|(taken, newest)| taken > newest);
            if is_newer && self.record.volumes.contains(&snapshot.volume()) && !choice.snapshots.values().any(|chosen| chosen == snapshot) {
                choice.notes.push(format!(
                    "not used: {snapshot}, {} old, {}; to start from it instead: \"replica\": [\"{snapshot}\", …]",
                    self.age(snapshot.taken()),
                    own::FENCED
                ));
            }
        }
        let mine = self.replica.last.as_ref().filter(|_| of_last).and_then(|last| self.rank(last));
        // What others hold they set aside themselves.
        for (holder, replica) in &self.others {
            for snapshot in replica.void.iter().filter(|snapshot| self.record.volumes.contains(&snapshot.volume())) {
                let age = self.age(snapshot.taken());
                choice.notes.push(format!("not used: {holder} may have {snapshot}, {age} old, which did not count as whole"));
            }
            let next = replica.next.as_ref().map(|next| (&next.set, "newer, which nobody has confirmed"));
            for (set, what) in next.into_iter().chain(replica.last.as_ref().map(|last| (last, "confirmed"))) {
                let is_newer = match (self.rank(set), mine) {
                    (Some(rank), Some(mine)) => rank > mine,
                    _ => Time::parse(&set.taken).zip(newest).is_none_or(|(taken, newest)| taken > newest),
                };
                if is_newer {
                    let names: Vec<&str> = set.names().map(|snapshot| &**snapshot).collect();
                    let old = self.age(&set.taken);
                    choice.notes.push(format!("not used: {holder} has a set of {}, {old} old, {what}: {}", set.taken, names.join(", ")));
                }
            }
        }
        Ok(())
    }

    /// What was taken at one moment and is here, whole: the last one, else the newest.
    fn of_one_moment(&self) -> Result<Option<Snapshots>, Error> {
        let volumes: BTreeSet<&Volume> = self.record.volumes.iter().collect();
        let named = |snapshots: Vec<&Snapshot>| -> Snapshots {
            snapshots.into_iter().map(|it| (it.volume(), it.clone())).filter(|(volume, _)| volumes.contains(volume)).collect()
        };
        let sets = self.replica.next.iter().map(|next| &next.set).chain(&self.book).map(|set| named(set.names().collect()));
        let void = self.replica.void_sets.values().map(|void| named(void.iter().collect()));
        let mut all: Vec<Snapshots> = sets.chain(void).collect();
        let newest = |all: &Snapshots| all.values().filter_map(|it| Time::parse(it.taken())).max();
        all.sort_by_key(|all| std::cmp::Reverse(newest(all)));
        all.splice(0..0, self.replica.last.iter().map(|last| named(last.names().collect())));
        for one in all.into_iter().filter(|one| one.len() == volumes.len()) {
            let mut whole = true;
            for snapshot in one.values() {
                whole = whole && self.is_here(snapshot)? && self.is_sound(snapshot)?;
            }
            if whole {
                return Ok(Some(one));
            }
        }
        Ok(None)
    }

    /// What could be started from, and whether it is of one moment: else the newest of each volume that nobody knows to be torn; and the volumes
    /// without.
    fn candidates(&self) -> Result<(Snapshots, Vec<Volume>, bool), Error> {
        if let Some(one) = self.of_one_moment()? {
            return Ok((one, Vec::new(), true));
        }
        let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
        for volume in &self.record.volumes {
            // An earlier set as a whole rather than the newest of each.
            let of_set = self.replica.last.as_ref().and_then(|last| last.snapshots.get(volume)).map(|taken| taken.snapshot.clone());
            let of_set = match of_set {
                Some(snapshot) if self.is_sound(&snapshot)? && self.is_here(&snapshot)? => Some(snapshot),
                _ => self.newest(volume)?,
            };
            match of_set {
                Some(snapshot) => drop(found.insert(volume.clone(), snapshot)),
                None => missing.push(volume.clone()),
            }
        }
        Ok((found, missing, false))
    }

    fn newest(&self, volume: &Volume) -> Result<Option<Snapshot>, Error> {
        for snapshot in own::replicas(self.here, volume)?.into_iter().rev() {
            if self.taken.get(volume) != Some(&snapshot) && self.is_sound(&snapshot)? {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    fn is_sound(&self, snapshot: &Snapshot) -> Result<bool, Error> {
        Ok(matches!(replicas::look(self.here, snapshot, None)?, None | Some(Seen::Whole)))
    }
}

/// What has come between the set and what is in force.
fn before(here: &Here, name: &AppName, record: &Record, set: &Set) -> Result<String, Error> {
    if set.deploy_id != record.deploy_id {
        let date = record.deployed();
        return Ok(format!("the deploy of {} {}", date.get(..10).unwrap_or_default(), date.get(11..16).unwrap_or_default()));
    }
    let migrate = here.consul.get(&format!("{}{}", keys::histories(name), record.data_id()))?;
    let order = migrate.and_then(|entry| orders::parse(&entry).ok()).filter(|order| matches!(order.request, Request::Migrate(_)));
    let finished = order.and_then(|order| order.finished).map_or(String::new(), |at| format!(" of {at}"));
    Ok(format!("the migrate{finished}"))
}
