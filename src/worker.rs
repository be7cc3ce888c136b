//! What is to be done for one application: what must not run here is stopped, what a killed run has left is taken up, then this node's part
//! of each open order, in the one order in which Consul has them, until none is left for it. One worker at a time for an application; those of
//! others are at work beside it.

use std::collections::BTreeSet;
use std::time::Duration;

use log::{debug, error, info, warn};

use crate::about;
use crate::data::own;
use crate::error::{Error, Fault, in_consul};
use crate::here::Here;
use crate::logger;
use crate::model::members::{self, Member};
use crate::model::names::{App, AppName, Host, NodeName, Project};
use crate::model::order::{Order, Request, Slave, State, UNDERSTANDS};
use crate::model::record::Record;
use crate::model::{json, keys};
use crate::node::local::{self, Local, LocalRole};
use crate::node::{done, reconcile};
use crate::older;
use crate::orders::{self, Failing, Open};
use crate::outside::doors::Lock;
use crate::steps::journal::{self, Header, Journal, Part};
use crate::steps::machine::Outcome;
use crate::steps::plan::{self, Facts};
use crate::steps::run::Run;
use crate::steps::table::Step;

/// How it went.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    pub done: usize,
    pub failed: usize,
    /// Something could not be brought to its end; a later run has to.
    pub left: usize,
    /// The application is not as its record says.
    pub unreconciled: bool,
    /// It went to another node, or its data did.
    handed_over: bool,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Left => self.left += 1,
        }
    }

    fn is_idle(&self) -> bool {
        *self == Tally::default()
    }
}

/// This node's part of everything that is to be done for the application. Waits for a worker that is at it; where another waits already,
/// that one will see all that this one could.
pub fn work(here: &Here, name: &AppName) -> Result<Tally, Error> {
    older::take_over(here)?;
    here.paths.prepare_app(&here.world, name)?;
    let (lock, next) = here.paths.worker_locks(name);
    let first = match here.world.try_lock_file(&lock)? {
        Some(lock) => lock,
        None => {
            // Each looks: the one that waits already has looked when it came.
            if let Err(why) = stop_behind(here, name) {
                error!("{name}: whether it must be stopped here cannot be told: {why}");
            }
            let Some(_next) = here.world.try_lock_file(&next)? else {
                debug!("another worker of {name} waits for its turn already");
                return Ok(Tally::default());
            };
            debug!("another worker is at work on {name}; waiting for it");
            here.world.lock_file(&lock)?
        }
    };
    let mut locked = BTreeSet::from([name.clone()]);
    let mut locks = vec![first];
    let mut worker = Worker { here, name, tally: Tally::default(), passed: BTreeSet::new() };
    loop {
        match worker.round(&locked)? {
            Then::Ends => break,
            Then::Needs(more) => {
                debug!("{name} and others are needed: {more:?}");
                // None of them is waited for while another is held that comes later.
                drop(std::mem::take(&mut locks));
                locked = more;
                locks = locked.iter().map(|name| lock_of(here, name)).collect::<Result<_, Error>>()?;
            }
            Then::Waits { key, index } => {
                let Some(_next) = here.world.try_lock_file(&next)? else { break };
                // Without a lock: it may be this node's other workers that are waited for.
                drop(std::mem::take(&mut locks));
                here.consul.wait(&key, index)?;
                locked = BTreeSet::from([name.clone()]);
                locks = vec![lock_of(here, name)?];
            }
        }
    }
    debug!("{:?}", worker.tally);
    Ok(worker.tally)
}

/// What is to come after a round.
enum Then {
    Ends,
    /// Another, with the locks of these applications.
    Needs(BTreeSet<AppName>),
    /// Another, once this order of somebody else's has changed.
    Waits {
        key: String,
        index: u64,
    },
}

fn lock_of(here: &Here, name: &AppName) -> Result<Lock, Error> {
    here.paths.prepare_app(&here.world, name)?;
    Ok(here.world.lock_file(&here.paths.worker_locks(name).0)?)
}

/// Whoever is at work on the application may be in the middle of something that takes hours, of an order that has failed meanwhile, be it
/// about another application, too: what the record gives to another node is stopped all the same.
fn stop_behind(here: &Here, name: &AppName) -> Result<(), Error> {
    let at_work = || match Left::of(here, name)? {
        Left::Journal(journal) => Ok(Some((journal.header.order.name, journal.header.order.id))),
        Left::Unreadable(why) => Err(why),
        Left::Nothing => Ok(None),
    };
    let Some(found) = at_work()? else { return Ok(()) };
    let (order, _) = orders::read(&here.consul, &found.0, &found.1)?;
    let elsewhere = here.consul.get(&keys::app(name))?.map(|entry| json::read::<Record>(&entry.value));
    let elsewhere = match elsewhere {
        Some(Ok(record)) => record.master != *here.me()?,
        Some(Err(_)) | None => false,
    };
    if elsewhere && order.state == State::Failed && at_work()? == Some(found) {
        warn!("{name}: another node is its master now; what runs here is stopped, though a worker is still at it");
        here.engine().stop_for_good(&name.project(), here.settings.timeouts.stop)?;
    }
    Ok(())
}

fn known(step: &str) -> bool {
    Step::named(step).is_some()
}

/// Whether this node is in the middle of something with the application.
pub fn is_busy(here: &Here, name: &AppName) -> Result<bool, Error> {
    Ok(!Left::of(here, name)?.is_nothing())
}

struct Worker<'a> {
    here: &'a Here,
    name: &'a AppName,
    tally: Tally,
    /// What could not be brought to its end here, and what has failed, stays as it is in this run.
    passed: BTreeSet<String>,
}

/// What a killed run has left of an application.
enum Left {
    Nothing,
    Journal(Box<Journal>),
    /// A newer handler's, or it has been damaged.
    Unreadable(Error),
}

impl Left {
    /// The journal that is about the application: its own, or that of an order about two.
    fn of(here: &Here, name: &AppName) -> Result<Left, Error> {
        let open = |name: &AppName| Journal::open(&here.world, here.paths.journal(name), known);
        match open(name) {
            Ok(Some(journal)) => return Ok(Left::Journal(Box::new(journal))),
            Err(why) => return Ok(Left::Unreadable(why)),
            Ok(None) => {}
        }
        for other in here.apps()?.iter().filter(|other| *other != name) {
            match open(other) {
                Ok(Some(journal)) if journal.apps().contains(name) => return Ok(Left::Journal(Box::new(journal))),
                Err(why) if journal::apps_of(&here.world, &here.paths.journal(other)).contains(name) => return Ok(Left::Unreadable(why)),
                _ => {}
            }
        }
        Ok(Left::Nothing)
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Left::Nothing)
    }

    /// Whether it may be of this order.
    fn may_be_of(&self, order: &Order) -> bool {
        match self {
            Left::Nothing => false,
            Left::Journal(journal) => journal.header.order.id == order.id,
            Left::Unreadable(_) => true,
        }
    }

    fn busy(&self) -> Option<reconcile::Busy> {
        match self {
            Left::Nothing => None,
            Left::Journal(journal) if journal.header.part == Part::Owner => Some(reconcile::Busy::Owner(journal.header.order.id.clone())),
            Left::Journal(_) | Left::Unreadable(_) => Some(reconcile::Busy::Other),
        }
    }
}

impl Worker<'_> {
    fn round(&mut self, locked: &BTreeSet<AppName>) -> Result<Then, Error> {
        // First of all what must not run here any more is stopped; then what a killed run has left, then what is new.
        let mut fenced = self.fence(locked);
        match Left::of(self.here, self.name)? {
            Left::Journal(journal) => {
                let apps: BTreeSet<AppName> = journal.apps().into_iter().collect();
                if !apps.is_subset(locked) {
                    return Ok(Then::Needs(&apps | locked));
                }
                self.resume(*journal);
                // A run that somebody has gone on without leaves what it has started: with its journal gone nothing else says that it may
                // stand here.
                fenced = self.fence(locked);
            }
            Left::Unreadable(why) => {
                error!(
                    "nothing is done about {} here: its journal {why}; start the handler that wrote it, or move the file away",
                    self.name
                );
                self.tally.left += 1;
            }
            Left::Nothing => {}
        }
        self.reconcile(fenced);
        let then = self.carry_out(locked, fenced)?;
        if !self.tally.is_idle() {
            fenced = self.fence(locked);
        }
        if self.tally.handed_over {
            self.reconcile(fenced);
        }
        Ok(then)
    }

    /// Whether nothing runs here that must not.
    fn fence(&mut self, locked: &BTreeSet<AppName>) -> bool {
        let mut fenced = true;
        for name in locked {
            let tried = Left::of(self.here, name).and_then(|left| reconcile::fence(self.here, name, left.busy().as_ref()));
            if let Err(why) = tried {
                error!("{name}: not fenced: {why}");
                fenced = false;
            }
        }
        self.tally.unreconciled |= !fenced;
        fenced
    }

    /// Finishes or undoes what a killed run has left.
    fn resume(&mut self, journal: Journal) {
        let order = journal.header.order.clone();
        let _order = logger::order(&order.id);
        let outcome = Run::new(self.here, journal, order, 0).resume();
        // What is brought to its end here has been counted by the run that began it, or is taken up again below.
        if outcome != Outcome::Done {
            self.tally.count(outcome);
        }
    }

    fn reconcile(&mut self, fenced: bool) {
        let reconciled = match Left::of(self.here, self.name) {
            Ok(Left::Nothing) if fenced => reconcile::reconcile(self.here, self.name),
            Ok(_) => return, // the journal knows better
            Err(why) => Err(why),
        };
        if let Err(why) = reconciled {
            error!("{}: {why}", self.name);
            self.tally.unreconciled = true;
        }
    }

    /// Takes this node's part in open orders until none is left for it, or the next one needs something first. What is not fenced takes part in
    /// nothing; that nobody brings an order to its end is seen all the same.
    fn carry_out(&mut self, locked: &BTreeSet<AppName>, fenced: bool) -> Result<Then, Error> {
        let here = self.here;
        loop {
            let open = orders::open(&here.consul)?;
            let concerns = |open: &Open| open.order.apps().contains(self.name);
            if !open.iter().any(concerns) {
                return Ok(Then::Ends);
            }
            let me = here.me()?.clone();
            let members = here.consul.members()?;
            let mut again = false;
            for (at, next) in open.iter().enumerate() {
                let order = &next.order;
                if self.passed.contains(&*order.id) {
                    continue;
                }
                let _order = logger::order(&order.id);
                let apps: BTreeSet<AppName> = order.apps().into_iter().collect();
                let left = |apps: &BTreeSet<AppName>| apps.iter().map(|name| Left::of(here, name)).collect::<Result<Vec<Left>, Error>>();
                if apps.contains(self.name) && done::has(here, &order.name, &order.id)? {
                    orders::done_before(here, next)?;
                    again = true;
                    break;
                }
                let earlier: Vec<&Open> = open[..at].iter().filter(|other| orders::shares_app(&other.order, order)).collect();
                if order.state == State::Failed && !fenced {
                    continue;
                }
                if order.state == State::Failed {
                    // What this node has no journal of, it has nothing to undo of.
                    let undone = order.progress.contains_key(&*me) && !left(&apps)?.iter().any(|left| left.may_be_of(order));
                    let reason = order.reason.as_deref().unwrap_or_default();
                    self.passed.insert(order.id.to_string());
                    again = orders::fail(here, &order.id, reason, undone.then_some(&me))? == Failing::Archived;
                    if again {
                        break;
                    }
                    continue;
                }
                let waited = if earlier.is_empty() { untaken(here, order)? } else { Duration::ZERO };
                let reason = match lost(here, order, &members, waited) {
                    Err(why) if !why.is_out_of_reach() && !apps.contains(self.name) => {
                        error!("{why}");
                        continue; // its own worker says so, too, and no other is kept from its work by it
                    }
                    reason => reason?,
                };
                let reason = reason.or(if earlier.is_empty() { None } else { without_source(here, order, &earlier, &members)? });
                let reason = reason.or(if order.name == *self.name { runs_here(here, order)? } else { None });
                if let Some(reason) = reason {
                    warn!("{} {}: {reason}", order.request.event(), order.name);
                    self.passed.insert(order.id.to_string());
                    orders::fail(here, &order.id, &reason, None)?;
                    again = true;
                }
                if again {
                    break;
                }
                // Of others no more than that: somebody may wait for them.
                if !fenced || !apps.contains(self.name) {
                    continue;
                }
                // While an application has a journal here, nothing of it is begun; a newer handler carries out what this one does not
                // understand.
                if order.needs > UNDERSTANDS || !left(&apps)?.iter().all(Left::is_nothing) {
                    continue;
                }
                if earlier.iter().any(|open| open.order.state == State::Failed) {
                    debug!("{} waits until an earlier order of it is undone", order.name);
                    continue;
                }
                let records = Records::of(here, order)?;
                if let Some(first) = earlier.first() {
                    if may_concern(order, &earlier, &records, &me) {
                        info!("{} waits for the order {} of the same application", order.name, first.order.id);
                        return Ok(Then::Waits { key: first.order.key(), index: first.modify_index });
                    }
                    continue;
                }
                // Neither fewer nor more: what an order before has needed is not kept from its own worker.
                let apps = with_namesakes(here, apps)?;
                if apps != *locked {
                    return Ok(Then::Needs(apps));
                }
                if !left(&apps)?.iter().all(Left::is_nothing) {
                    continue;
                }
                if let Some(outcome) = take(here, next, &records, &members, &me, &mut self.tally)? {
                    self.tally.count(outcome);
                    if outcome == Outcome::Left {
                        error!("the order {} is not at its end; the next run takes it up", order.id);
                        self.passed.insert(order.id.to_string());
                    }
                    again = true;
                    break;
                }
            }
            if !again {
                return Ok(Then::Ends);
            }
        }
    }
}

/// With those that this node knows of the same project: they have the same containers and volumes, and one may be at its last steps.
fn with_namesakes(here: &Here, mut apps: BTreeSet<AppName>) -> Result<BTreeSet<AppName>, Error> {
    let projects: Vec<Project> = apps.iter().map(AppName::project).collect();
    apps.extend(here.apps()?.into_iter().filter(|other| projects.contains(&other.project())));
    Ok(apps)
}

/// For how long this node has seen that nobody takes the order up, though no other is before it; `None`: it has not looked yet. By how long this
/// machine has been up alone, so that it matters neither whose clock is right nor that one is put right. What another boot has seen counts
/// for less than it was.
pub fn seen_untaken(here: &Here, order: &Order) -> Result<Option<Duration>, Error> {
    if order.owner.is_some() {
        return Ok(Some(Duration::ZERO));
    }
    let now = here.world.clock.uptime().as_millis() as u64;
    let text = here.world.read_file(&here.paths.untaken(&order.name), 1024)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let since = text.trim().split_once(' ').filter(|(id, _)| *id == &*order.id).and_then(|(_, since)| since.parse::<u64>().ok());
    Ok(since.filter(|since| *since <= now).map(|since| Duration::from_millis(now - since)))
}

/// The same, from now on.
fn untaken(here: &Here, order: &Order) -> Result<Duration, Error> {
    if let Some(waited) = seen_untaken(here, order)? {
        return Ok(waited);
    }
    here.world.create_folder(&here.paths.app(&order.name))?;
    let line = format!("{} {}\n", order.id, here.world.clock.uptime().as_millis());
    here.world.replace_file(&here.paths.untaken(&order.name), line.as_bytes(), false)?;
    Ok(Duration::ZERO)
}

/// The records that an order is about, with the index of the first.
pub struct Records {
    pub record: Option<(Record, u64)>,
    pub source: Option<Record>,
    /// See [`Facts::lost`].
    lost: Option<NodeName>,
    /// See [`Facts::held`].
    held: bool,
}

impl Records {
    pub fn of(here: &Here, order: &Order) -> Result<Records, Error> {
        let get = |name: &_| -> Result<Option<(Record, u64)>, Error> {
            let Some(entry) = here.consul.get(&keys::app(name))? else { return Ok(None) };
            Ok(Some((in_consul(&entry, "a record")?, entry.modify_index)))
        };
        let source = order.request.source_app().map(|app| get(&app.name())).transpose()?.flatten();
        let mut records = Records { record: get(&order.name)?, source: source.map(|(record, _)| record), lost: None, held: false };
        if records.record.is_none()
            && let Request::Deploy(deploy) = &order.request
        {
            let (last, mut slave) = (orders::last_done(&here.consul, &order.name)?, None);
            match last.as_ref().map(|last| &last.request) {
                Some(Request::Deploy(last)) => {
                    records.lost = Some(last.master.clone());
                    slave = last.slave.named().cloned();
                }
                Some(_) => return Ok(records),
                None => {}
            }
            if deploy.master == *here.me()? {
                let local = local::of(here, &order.name)?;
                records.held = local.as_ref().map_or(records.lost.is_some(), |local| local.role != LocalRole::Master);
                let local = local.filter(|local| local.role == LocalRole::Master);
                records.record = local.map(|local| (Record { slave, ..remembered(order, deploy.master.clone(), local) }, 0));
            }
        }
        if let Some((record, _)) = &mut records.record
            && let Some(local) = local::runs_another(here, &order.name, record)?
        {
            warn!("{}: {}; this node goes by what it remembers of it", order.name, local::ANOTHER);
            record.data_id = Some(record.data_id().clone());
            (record.deploy_id, record.volumes) = (local.deploy_id, local.volumes);
        }
        Ok(records)
    }

    pub fn facts<'a>(&'a self, members: &'a [Member]) -> Facts<'a> {
        let record = self.record.as_ref().map(|(record, _)| record);
        Facts { members, record, source_record: self.source.as_ref(), lost: self.lost.as_ref(), held: self.held }
    }
}

/// What stands in for a record that is gone: what runs here goes on if what is deployed over it fails.
fn remembered(order: &Order, me: NodeName, local: Local) -> Record {
    warn!("{}: its record is gone; this node goes by what it remembers of it", order.name);
    let App { repo, branch } = order.request.app();
    Record::remembered(repo, branch, me, local.deploy_id, local.volumes)
}

/// Whether the order can become this node's once the earlier ones of its applications are finished. In doubt yes: a node that
/// took a later order instead could wait for one that waits for it.
fn may_concern(order: &Order, earlier: &[&Open], records: &Records, me: &NodeName) -> bool {
    let master_of = |order: &Order| match &order.request {
        Request::Deploy(deploy) => Some(deploy.master.clone()),
        Request::Destroy(_) | Request::Migrate(_) => None,
    };
    let masters =
        [records.record.as_ref().map(|(record, _)| record.master.clone()), records.source.as_ref().map(|record| record.master.clone())];
    let orders = earlier.iter().map(|open| master_of(&open.order)).chain([master_of(order)]);
    masters.into_iter().chain(orders).flatten().any(|node| node == *me)
}

/// Why nobody will bring the order to its end, if so. `waited`: for how long nobody has taken it up, though its turn has come.
pub fn lost(here: &Here, order: &Order, members: &[Member], waited: Duration) -> Result<Option<String>, Error> {
    let alive = |name: &str| members::alive(members, name);
    let mut unclear = None;
    if order.needs > 1 && order.state == State::Open {
        match too_old(here, order, members) {
            Ok(Some(why)) => return Ok(Some(why.to_string())),
            Ok(None) => {}
            Err(why) if why.is_out_of_reach() => return Err(why),
            Err(why) => unclear = Some(why),
        }
    }
    if order.state == State::Failed {
        return Ok(None); // it goes when all is undone
    }
    if let Some(owner) = order.owner.as_deref().filter(|owner| !alive(owner)) {
        // A source that lives and has begun knows better: it may have to start the application again. A migrate's has nothing to start.
        let is_member = members.iter().any(|member| member.name == owner);
        let knows = |source: &&str| is_member && alive(source) && order.progress.contains_key(*source);
        let nobody = !matches!(order.request, Request::Deploy(_)) || order.source.as_deref().filter(knows).is_none();
        return Ok(nobody.then(|| format!("{owner} has died while it carried it out")));
    }
    if order.owner.is_some() || waited <= here.settings.timeouts.order {
        // Not to be taken before it is known.
        return unclear.map_or(Ok(None), Err);
    }
    let (owner, state) = match &order.request {
        Request::Deploy(deploy) => (&*deploy.master, if alive(&deploy.master) { "" } else { ", which is dead," }),
        Request::Destroy(_) | Request::Migrate(_) => ("its node", ""),
    };
    let unclear = unclear.map_or(String::new(), |why| format!(": {why}"));
    Ok(Some(format!("not taken up by {owner}{state} within {} s{unclear}", here.settings.timeouts.order.as_secs())))
}

/// Why a migrate that waits for an earlier order is not to wait any longer: it keeps its source from a takeover, which has to come first.
fn without_source(here: &Here, order: &Order, earlier: &[&Open], members: &[Member]) -> Result<Option<String>, Error> {
    let Some(source) = order.request.source_app().filter(|_| order.state == State::Open && !order.is_begun()) else { return Ok(None) };
    // It is being taken over, perhaps.
    let is_its_deploy = |earlier: &Order| {
        let lives = |request: &Request| matches!(request, Request::Deploy(deploy) if members::alive(members, &deploy.master));
        earlier.name == source.name() && earlier.state != State::Failed && lives(&earlier.request)
    };
    if earlier.iter().any(|earlier| is_its_deploy(&earlier.order)) {
        return Ok(None);
    }
    let record = here.consul.get(&keys::app(&source.name()))?.and_then(|entry| json::read::<Record>(&entry.value).ok());
    let dead = record.map(|record| record.master).filter(|master| !members::alive(members, master));
    Ok(dead.map(|master| format!("{master}, which has the data of {}, has died while it waited for an earlier order", source.name())))
}

/// Why a deploy elsewhere would begin anew: this node is the application's master, and nobody else can know of it, since neither a record nor
/// the history does.
fn runs_here(here: &Here, order: &Order) -> Result<Option<String>, Error> {
    let me = here.me()?;
    let elsewhere = matches!(&order.request, Request::Deploy(deploy) if deploy.master != *me);
    let is_master = elsewhere && local::of(here, &order.name)?.is_some_and(|local| local.role == LocalRole::Master);
    if !is_master || here.consul.get(&keys::app(&order.name))?.is_some() || orders::last_done(&here.consul, &order.name)?.is_some() {
        return Ok(None);
    }
    Ok(Some(Fault::RecordGone { app: order.name.clone(), master: me.clone() }.to_string()))
}

/// A node that would take part in the order and does not understand it.
fn too_old(here: &Here, order: &Order, members: &[Member]) -> Result<Option<Fault>, Error> {
    let records = match Records::of(here, order) {
        Err(why) if !why.is_out_of_reach() => {
            error!("{why}"); // nobody can take it, and it fails by that
            Records { record: None, source: None, lost: None, held: false }
        }
        records => records?,
    };
    let master = match &order.request {
        Request::Deploy(deploy) => Some(deploy.master.clone()),
        Request::Destroy(_) | Request::Migrate(_) => None,
    };
    let masters = [master, records.record.map(|(record, _)| record.master), records.source.map(|record| record.master)];
    for node in masters.into_iter().flatten().filter(|node| order.takes_part(node, members::alive(members, node))) {
        let about = about::read(here, &node)?;
        if about.understands < order.needs {
            return Ok(Some(Fault::TooOld { node: node.to_string(), version: about.version, needs: order.needs }));
        }
    }
    Ok(None)
}

/// This node's part of the order, if it has one.
fn take(
    here: &Here,
    open: &Open,
    records: &Records,
    members: &[Member],
    me: &NodeName,
    tally: &mut Tally,
) -> Result<Option<Outcome>, Error> {
    let order = &open.order;
    let facts = records.facts(members);
    let planned = plan::owner(order, &facts).and_then(|owner| Ok((plan::plan(order, &facts, me)?, owner)));
    let (plan, owner) = match planned {
        Ok(planned) => planned,
        // Whoever carries it out knows what is left to do.
        Err(_) if order.owner.as_ref().is_some_and(|owner| owner != me) => return Ok(None),
        Err(reason) => {
            // It may have come to its end since the orders were listed: then the records are those that it has left.
            if orders::fail(here, &order.id, &reason.to_string(), None)? == Failing::Gone {
                return Ok(None);
            }
            error!("{} {} is refused: {reason}", order.request.event(), order.name);
            return Ok(Some(Outcome::Failed));
        }
    };
    // By the record that it is carried out on: others may have gone on since this run has looked.
    if plan.part == Part::Owner
        && facts.record.is_none_or(|record| record.master != *me)
        && let Err(why) = reconcile::fence(here, &order.name, None)
    {
        error!("{}: not fenced, so that {} is not taken: {why}", order.name, order.id);
        return Ok(None);
    }
    let sent = plan.part == Part::Source && matches!(order.request, Request::Migrate(_)) && order.state == State::Sent;
    if plan.part == Part::Bystander || sent || plan.steps.is_empty() {
        return Ok(None);
    }
    tally.handed_over |= plan.part == Part::Source;
    let mut order = if plan.part == Part::Owner { with_slave(order, &facts) } else { order.clone() };
    if plan.part == Part::Owner && facts.record.is_some_and(|record| record.master == *me) && local::was_passed_on(here, &order.name)? {
        let note = format!("another node went on with it after {me} was its master, and may hold what is newer");
        warn!("{note}");
        order.notes.push(note);
    }
    let order = &order;
    let source = plan::source(order, &owner, &facts).filter(|source| facts.alive(source));
    let peer = if plan.part == Part::Owner { source.as_ref() } else { Some(&owner) };
    let address = peer.and_then(|peer| Some(members.iter().find(|member| member.name == **peer)?.address.clone()));
    info!("{} {}: {me} is its {}", order.request.event(), order.name, if plan.part == Part::Owner { "owner" } else { "source" });
    let header = Header {
        format: 0, // set where it is written
        order: order.clone(),
        part: plan.part,
        origin: Some(plan.origin),
        steps: plan.steps.iter().map(|step| step.row().name.into()).collect(),
        old: records.record.clone(),
        source_record: records.source.clone(),
        peer_address: address.and_then(|address| Host::try_from(address).ok()),
        unknown: Default::default(),
    };
    own::make_room(here)?;
    done::make_room(here, &order.name)?;
    let journal = Journal::create(&here.world, here.paths.journal(&order.name), header)?;
    let run = Run::new(here, journal, order.clone(), open.modify_index);
    Ok(Some(run.start(owner, source)))
}

/// As its owner takes it: with the slave that the application is to have, once and for all.
fn with_slave(order: &Order, facts: &Facts) -> Order {
    let mut order = order.clone();
    let Request::Deploy(deploy) = &mut order.request else { return order };
    let (slave, said) = plan::slave(deploy, facts);
    match (slave, said) {
        (Some(slave), Some(said)) => {
            info!("{said}");
            deploy.slave = Slave::Named(slave);
        }
        (None, Some(said)) => {
            warn!("{said}");
            order.notes = vec![said];
        }
        (_, None) => {}
    }
    order
}
