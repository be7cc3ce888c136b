//! Old sets go by the rule that the application has, of those that this node has written down.

use std::collections::BTreeSet;

use log::{info, warn};

use super::{Known, Part};
use crate::error::Error;
use crate::model::keep::Rule;
use crate::model::names::{OrderId, Snapshot};
use crate::model::order::{Order, Request};
use crate::model::replica::{Replica, Set};
use crate::model::time::Time;
use crate::orders;

pub fn purge(part: &mut Part) -> Result<(), Error> {
    let Some(known) = part.known()? else { return Ok(()) };
    // A replica of a dead master is nothing to be saving with.
    if !part.lives(&known.record.master) {
        return Ok(());
    }
    // Without a rule nothing goes: it is told with the next set.
    let Some((_, keep)) = known.rule() else { return Ok(()) };
    let Some(rule) = Rule::parse(keep) else {
        warn!("{}: what is to be kept of its sets is not understood here; nothing goes", part.name);
        return Ok(());
    };
    let (sets, now) = (&part.book.sets, part.here.world.clock.now());
    let held = held(&known, sets);
    let goes = goes(sets, &rule, now).into_iter().filter(|set| !held.iter().any(|held| held.snapshots == set.snapshots));
    let mut goes = free(goes.collect(), sets, &held.iter().flat_map(|set| set.names()).cloned().collect());
    if goes.iter().any(|set| set.deploy_id != known.record.deploy_id) {
        let ended = of_a_destroyed_one(part, &known)?;
        goes.retain(|set| !ended.contains(set));
        if !ended.is_empty() {
            info!("{}: {} sets are of before it was destroyed: they stay until somebody removes them", part.name, ended.len());
            part.book.strike(part.here, part.name, &ended)?;
        }
    }
    if goes.is_empty() {
        return Ok(());
    }
    let Some(_lock) = part.at_rest()? else { return Ok(()) };
    // The parents of the next differences: of what is declared, and for those who are members.
    let mut marked = BTreeSet::new();
    for volume in &known.record.volumes {
        let marks = part.here.plugin().all_marks(volume)?;
        let mine = marks.iter().filter_map(|mark| mark.rsplit_once('@')).filter(|(_, to)| part.members.iter().any(|it| it.address == *to));
        marked.extend(mine.filter_map(|(snapshot, _)| Snapshot::try_from(snapshot).ok()));
    }
    let goes = free(goes, &part.book.sets, &marked);
    if goes.is_empty() {
        return Ok(());
    }
    info!("{}: {} of {} sets are old enough to go", part.name, goes.len(), part.book.sets.len());
    part.strike(&goes)
}

/// What was taken before the application was destroyed, and deployed anew: no rule of the new one's is about that.
fn of_a_destroyed_one(part: &Part, known: &Known) -> Result<Vec<Set>, Error> {
    let done = orders::all_done(&part.here.consul, part.name)?;
    let Some(destroy) = last_destroy(&done).map(|at| &done[at].id) else { return Ok(Vec::new()) };
    // The history forgets deploys, but not by what an application was destroyed.
    let is_since =
        |set: &Set| set.deploy_id == known.record.deploy_id || set.destroy.as_ref() == Some(destroy) || lives_since(&done, set).is_some();
    Ok(part.book.sets.iter().filter(|set| !is_since(set)).cloned().collect())
}

fn last_destroy(done: &[Order]) -> Option<usize> {
    done.iter().position(|order| matches!(order.request, Request::Destroy(_)))
}

/// The last destroy of those that are done, the newest first, if the set is of a deploy that has come after it.
pub fn lives_since(done: &[Order], set: &Set) -> Option<OrderId> {
    let at = last_destroy(done)?;
    done[..at].iter().any(|order| *order.id == *set.deploy_id).then(|| done[at].id.clone())
}

/// What keys name, and the newest that is written down, whatever the clock says and whatever it is of.
fn held<'s>(known: &'s Known, sets: &'s [Set]) -> Vec<&'s Set> {
    let newest = sets.iter().max_by(|a, b| a.taken.cmp(&b.taken));
    known.replicas.values().flat_map(Replica::sets).chain(newest).chain(sets.last()).collect()
}

/// Those of which nothing is held that no other one has: of a volume that nobody has written to many sets may have the same snapshot.
pub fn free(goes: Vec<Set>, sets: &[Set], held: &BTreeSet<Snapshot>) -> Vec<Set> {
    let stays: BTreeSet<&Snapshot> = sets.iter().filter(|set| !goes.contains(set)).flat_map(Set::names).collect();
    goes.iter().filter(|set| set.names().all(|name| !held.contains(name) || stays.contains(name))).cloned().collect()
}

fn goes(sets: &[Set], rule: &Rule, now: Time) -> Vec<Set> {
    // One that does not say when stays.
    let dated: Vec<(&Set, (Time, i64))> = sets.iter().filter_map(|set| Some((set, set.when()?))).collect();
    let times: Vec<(Time, i64)> = dated.iter().map(|(_, when)| *when).collect();
    // What a later one has not all of stays to the end of the rule: it may be the last that has it.
    let has_all = |later: &Set, set: &Set| set.snapshots.keys().all(|volume| later.snapshots.contains_key(volume));
    let stands_for = |later: usize, at: usize| !dated[at].0.replaced && has_all(dated[later].0, dated[at].0);
    rule.goes(&times, now, stands_for).into_iter().map(|number| dated[number].0.clone()).collect()
}
