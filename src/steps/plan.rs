//! What a node has to do, computed from what is known, without doing anything: (order, facts) → steps.

use super::journal::Part;
use super::table::Step;
use crate::error::Fault;
use crate::model::members::{self, Member};
use crate::model::names::{App, NodeName};
use crate::model::order::{Deploy, Order, Origin, Request, Slave, State};
use crate::model::record::Record;
use crate::model::roles::{Role, Roles, role, role_in};
use crate::model::text::redacted;
use crate::node::local::{Local, LocalRole};
use crate::node::reconcile::{self, Task};

/// What is known when an order is taken.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub members: &'a [Member],
    /// Of the application that changes.
    pub record: Option<&'a Record>,
    /// Of the application whose data a migrate copies.
    pub source_record: Option<&'a Record>,
    /// Where the record of what a deploy changes is gone, and no order has destroyed it: who has it by its last order.
    pub lost: Option<&'a NodeName>,
    /// Where the record is gone and no order has destroyed it: the node that is to deploy it remembers it as another node's, or nothing of it
    /// though it was its master.
    pub held: bool,
}

impl Facts<'_> {
    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    pub fn alive(&self, name: &str) -> bool {
        members::alive(self.members, name)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub part: Part,
    pub origin: Origin,
    /// Run for the order, in this sequence, each undone if a later one fails before the commit.
    pub steps: Vec<Step>,
    /// Done by reconcile, once the record has changed.
    pub then: Vec<Task>,
}

/// The node that carries the order out; an error is the reason why nobody can.
pub fn owner(order: &Order, facts: &Facts) -> Result<NodeName, Fault> {
    let app = &order.name;
    same_repository(order, facts)?;
    match &order.request {
        Request::Deploy(deploy) => {
            for (member, name) in [("master", Some(&deploy.master)), ("slave", deploy.slave.named())] {
                let Some(name) = name.filter(|name| facts.member(name).is_none()) else { continue };
                let members = facts.members.iter().map(|member| member.name.clone()).collect();
                return Err(Fault::NoMember { member, name: name.to_string(), members });
            }
            // Elsewhere it would begin without its data.
            let lost = facts.lost.filter(|lost| **lost != deploy.master);
            match lost {
                _ if facts.record.is_some() => Ok(deploy.master.clone()),
                Some(master) if facts.alive(master) => Err(Fault::RecordGone { app: app.clone(), master: master.clone() }),
                _ if (lost.is_some() || facts.held) && !deploy.empty => {
                    Err(Fault::NothingKnown { app: app.clone(), master: lost.cloned(), node: deploy.master.clone() })
                }
                _ => Ok(deploy.master.clone()),
            }
        }
        Request::Destroy(_) => {
            let record = facts.record.ok_or_else(|| Fault::NothingToDestroy { app: app.clone() })?;
            // With the master dead any node may say that it is gone; the master finds out when it returns.
            let first_alive = || {
                let alive = facts.members.iter().filter(|member| member.alive).map(|member| member.name.clone());
                NodeName::try_from(alive.min().unwrap_or_default()).ok()
            };
            let named = [Some(&record.master), record.slave.as_ref()].into_iter().flatten().find(|node| facts.alive(node));
            named.cloned().or_else(first_alive).ok_or_else(|| Fault::NobodyAlive { app: app.clone() })
        }
        Request::Migrate(_) => {
            let source = order.apps().pop().unwrap_or_else(|| app.clone());
            let record = facts.record.ok_or_else(|| Fault::NoTarget { app: app.clone() })?;
            let source_record = facts.source_record.ok_or_else(|| Fault::NoSource { app: source.clone() })?;
            for (app, node) in [(app, &record.master), (&source, &source_record.master)] {
                if !facts.alive(node) {
                    return Err(Fault::DeadMaster { node: node.clone(), app: app.clone() });
                }
            }
            Ok(record.master.clone())
        }
    }
}

/// A name means one thing: `feature/x` and `feature-x` of one repository have the same, and so have repositories of two hosts with one path.
fn same_repository(order: &Order, facts: &Facts) -> Result<(), Fault> {
    let elsewhere = matches!(&order.request, Request::Deploy(deploy) if deploy.repo_moved);
    let source = order.request.source_app();
    for (app, record) in [(Some(order.request.app()), facts.record), (source, facts.source_record)] {
        let (Some(app), Some(record)) = (app, record) else { continue };
        let deployed = App { repo: record.repo_url.clone(), branch: record.branch.clone() };
        if app.branch != deployed.branch || (!elsewhere && app.repo.without_secret() != deployed.repo.without_secret()) {
            let name = |app: &App| format!("{} {}", redacted(&app.repo), app.branch);
            return Err(Fault::AnotherRepository { app: app.name(), deployed: name(&deployed), ordered: name(&app) });
        }
    }
    Ok(())
}

/// The slave that the application is to have, and what is to be said of it where the order says nothing: then the slave stays, or the old master
/// becomes the slave of the one that was it.
pub fn slave(deploy: &Deploy, facts: &Facts) -> (Option<NodeName>, Option<String>) {
    let (old, slave) = match (&deploy.slave, facts.record) {
        (Slave::Named(node), _) => return (Some(node.clone()), None),
        (Slave::Kept, Some(Record { master, slave: Some(slave), .. })) => (master, slave),
        (Slave::Ended | Slave::Kept, _) => return (None, None),
    };
    let (slave, said) = match *slave == deploy.master {
        true if facts.alive(old) => (Some(old.clone()), format!("slave: {old}, which was the master")),
        true => (None, format!("no slave: {old}, which was the master, is dead; deploy with one to have the data replicated")),
        false if facts.member(slave).is_some() => (Some(slave.clone()), format!("slave: {slave}, as before")),
        false => (None, format!("no slave: {slave}, which was it, is no member of the cluster any more; deploy with another one")),
    };
    (slave, Some(said))
}

/// The node that hands data over to the owner, if the order needs one.
pub fn source(order: &Order, owner: &NodeName, facts: &Facts) -> Option<NodeName> {
    let record = match order.request {
        Request::Deploy(_) => facts.record,
        Request::Destroy(_) => None,
        Request::Migrate(_) => facts.source_record,
    };
    record.map(|record| &record.master).filter(|node| *node != owner).cloned()
}

/// What `node` has to do for the order; an error is the reason why nobody can carry it out.
pub fn plan(order: &Order, facts: &Facts, node: &NodeName) -> Result<Plan, Fault> {
    let owner = owner(order, facts)?;
    let source = source(order, &owner, facts);
    let part = match (node == &owner, Some(node) == source.as_ref()) {
        (true, _) => Part::Owner,
        (_, true) => Part::Source,
        _ => Part::Bystander,
    };
    let old = role_in(facts.record, node);
    // Once taken it stays what it was. What has been sent is here, whatever became of the sender.
    let alive = |master: &NodeName| facts.alive(master) || order.state == State::Sent;
    let origin = order.origin.unwrap_or_else(|| match facts.record {
        None => Origin::New,
        Some(record) if alive(&record.master) => Origin::Alive,
        Some(_) => Origin::Dead,
    });
    let steps = match &order.request {
        Request::Deploy(deploy) if !deploy.replica.is_empty() && origin != Origin::Dead => {
            return Err(Fault::ReplicaNotAsked { master: facts.record.map(|record| record.master.clone()) });
        }
        Request::Deploy(deploy) => {
            let (slave, _) = slave(deploy, facts);
            deploy_steps(old, role(node, &deploy.master, slave.as_deref()), origin, deploy.update)
        }
        Request::Destroy(_) if part == Part::Owner => destroy_steps(old),
        Request::Destroy(_) => Vec::new(),
        Request::Migrate(migrate) => migrate_steps(part, source.is_none(), migrate.update),
    };
    let then = then(order, facts, node, &steps);
    Ok(Plan { part, origin, steps, then })
}

/// What reconcile will find to do on the node once the order is done, by the function that reconcile itself asks.
fn then(order: &Order, facts: &Facts, node: &NodeName, steps: &[Step]) -> Vec<Task> {
    let before = facts.record.and_then(|record| {
        let role = match role_in(Some(record), node) {
            Role::Master => LocalRole::Master,
            Role::Slave => LocalRole::Slave,
            Role::None => return None,
        };
        Some(Local::new(role, record.deploy_id.clone(), record.volumes.clone()))
    });
    let after = match steps {
        _ if steps.contains(&Step::Settle) => Some(Local::new(LocalRole::Master, (&order.id).into(), Vec::new())),
        _ if steps.contains(&Step::Remove) => None,
        _ => before,
    };
    let roles = match &order.request {
        Request::Deploy(deploy) => {
            Some(Roles { master: deploy.master.clone(), slave: slave(deploy, facts).0, deploy_id: (&order.id).into() })
        }
        Request::Destroy(_) => None,
        Request::Migrate(_) => facts.record.map(Roles::from),
    };
    reconcile::tasks(after.as_ref(), false, roles.as_ref(), node)
}

const PREPARE: [Step; 4] = [Step::Clone, Step::Check, Step::Pull, Step::Build];
const COMMIT: [Step; 4] = [Step::Register, Step::Schedule, Step::Commit, Step::Settle];
const SWITCH_OFF: [Step; 3] = [Step::Maintenance, Step::Stop, Step::Snapshot];
const SWITCH_ON: [Step; 2] = [Step::Up, Step::AwaitHealthy];
const CLEAR: [Step; 3] = [Step::Deregister, Step::Unschedule, Step::Remove];

/// The roles table: old role x new role of the node x where the data comes from.
#[rustfmt::skip]
fn deploy_steps(old: Role, new: Role, origin: Origin, update: bool) -> Vec<Step> {
    use Role::{Master, Slave};
    use Step::*;
    use Origin::*;
    let update: &[Step] = if update { &[Update] } else { &[] };
    let sequence: &[&[Step]] = match (old, new, origin) {
        (Master, Master, _)              => &[&PREPARE, &SWITCH_OFF, update, &SWITCH_ON, &COMMIT],
        (Slave | Role::None, Master, New)   => &[&PREPARE, &SWITCH_ON, &COMMIT],
        (Slave | Role::None, Master, Alive) => &[&PREPARE, &[Ready, AwaitSent, Restore], update, &SWITCH_ON, &COMMIT],
        (Slave | Role::None, Master, Dead)  => &[&PREPARE, &[RestoreReplica], update, &SWITCH_ON, &COMMIT],
        (Master, Slave | Role::None, Dead)  => &[],
        (Master, Slave | Role::None, _)     => &[&[SendAhead, AwaitReady, Maintenance, Turn, Stop, Snapshot, Send, AwaitDone], &CLEAR],
        (Slave | Role::None, Slave | Role::None, _) => &[],
    };
    sequence.concat()
}

fn destroy_steps(old: Role) -> Vec<Step> {
    match old {
        Role::Master => [&SWITCH_OFF[..], &[Step::CommitDestroy], &CLEAR].concat(),
        // The master is dead.
        Role::Slave | Role::None => vec![Step::CommitDestroy],
    }
}

fn migrate_steps(part: Part, same_node: bool, update: bool) -> Vec<Step> {
    use Step::*;
    let update: &[Step] = if update { &[Update] } else { &[] };
    let first = if same_node { SnapshotSource } else { AwaitSent };
    match part {
        Part::Owner => {
            [&[Check, first][..], &SWITCH_OFF, &[RestoreSource, PostMigrate], update, &SWITCH_ON, &[CommitMigrate, Reopen]].concat()
        }
        Part::Source => vec![SnapshotSource],
        Part::Bystander => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::OrderId;
    use crate::model::time::Time;

    const REPO: &str = "/srv/shop";
    const COPY: &str = "/srv/copy";

    fn record(repo: &str, master: &str, slave: Option<&str>) -> Record {
        let value = serde_json::json!({
            "repo_url": repo, "branch": "b", "deploy_id": "d", "previous_deploy_id": null, "master": master, "slave": slave,
        });
        serde_json::from_value(value).unwrap()
    }

    fn order(event: &str, payload: &str) -> Order {
        Order::new(OrderId::of([7; 16]), Request::parse(event, payload).unwrap(), Time { secs: 0, micros: 0 })
    }

    /// `node3-` is dead.
    fn members(names: &str) -> Vec<Member> {
        let member =
            |name: &str| Member { name: name.trim_end_matches('-').into(), address: "10.0.0.1".into(), alive: !name.ends_with('-') };
        names.split(' ').map(member).collect()
    }

    fn node(name: &str) -> NodeName {
        NodeName::try_from(name.to_string()).unwrap()
    }

    fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
        names.collect::<Vec<_>>().join(" ")
    }

    /// `steps | steps of reconcile` of node n.
    fn of(order: &Order, facts: &Facts, name: &str) -> String {
        let plan = plan(order, facts, &node(name)).unwrap();
        let steps = names(plan.steps.iter().map(|step| step.row().name));
        format!("{steps} | {}", names(plan.then.iter().map(|task| task.name()))).trim().to_string()
    }

    #[test]
    fn the_roles_table() {
        const PREPARE: &str = "clone check pull build";
        const OFF: &str = "maintenance stop snapshot";
        const ON: &str = "up await-healthy";
        const COMMIT: &str = "register schedule commit settle";
        const SLAVE: &str = "clone-slave schedule-purge remove-checkouts";
        let redeploy = format!("{PREPARE} {OFF} {ON} {COMMIT} |");
        let first = format!("{PREPARE} {ON} {COMMIT} |");
        let moved = format!("{PREPARE} ready await-sent restore {ON} {COMMIT} |");
        let takeover = format!("{PREPARE} restore-replica {ON} {COMMIT} |");
        let source = "send-ahead await-ready maintenance turn stop snapshot send await-done deregister unschedule remove |".to_string();
        let slave = format!("| {SLAVE}");
        // n is this node; a, b and c are others, the one with a minus is dead. Record → request: what n does.
        let table = [
            // master → master, with the slave staying, coming and going
            ("n", "n", "n a b c", redeploy.clone()),
            ("n+a", "n+a", "n a b c", redeploy.clone()),
            ("n", "n+a", "n a b c", redeploy.clone()),
            ("n+a", "n", "n a- b c", redeploy.clone()),
            // nothing ran before
            ("", "n", "n a b c", first.clone()),
            ("", "n+a", "n a b c", first.clone()),
            ("", "a+n", "n a b c", slave.clone()),
            ("", "a", "n a b c", "|".into()),
            // slave or none → master, the source alive, leaving, dead, not listed
            ("a+n", "n+a", "n a b c", moved.clone()),
            ("a+n", "n", "n a b c", moved.clone()),
            ("a", "n", "n a b c", moved.clone()),
            ("a+b", "n+c", "n a b c", moved.clone()),
            ("a+n", "n+b", "n a- b c", takeover.clone()),
            ("a+n", "n+a", "n a- b c", takeover.clone()),
            ("a", "n", "n b c", takeover.clone()),
            // master → slave or none
            ("n+a", "a+n", "n a b c", format!("{source} {SLAVE}")),
            ("n+a", "a", "n a b c", source.clone()),
            ("n", "a+b", "n a b c", source.clone()),
            // the same when n was dead: once it is back
            ("n+a", "a+n", "n- a b c", format!("| fence {SLAVE}")),
            ("n+a", "a", "n- a b c", "| fence remove-checkouts".into()),
            // slave and none
            ("a+n", "a+n", "n a b c", slave.clone()),
            ("a", "a+n", "n a b c", slave.clone()),
            ("a+n", "b+n", "n a b c", slave.clone()),
            ("a+n", "a", "n a b c", "| remove-checkouts unschedule".into()),
            ("a+n", "b+c", "n a b c", "| remove-checkouts unschedule".into()),
            ("a", "b", "n a b c", "|".into()),
            ("a+b", "b+c", "n a- b c", "|".into()),
        ];
        for (old, new, alive, expected) in table {
            let roles = |text: &'static str| text.split_once('+').map_or((text, None), |(master, slave)| (master, Some(slave)));
            let (master, slave) = roles(new);
            let payload = serde_json::json!({"repo": REPO, "branch": "b", "master": master, "slave": slave});
            let record = (!old.is_empty()).then(|| record(REPO, roles(old).0, roles(old).1));
            let facts = Facts { members: &members(alive), record: record.as_ref(), source_record: None, lost: None, held: false };
            assert_eq!(of(&order("deploy", &payload.to_string()), &facts, "n"), expected, "{old} -> {new} with {alive}");
        }
    }

    #[test]
    fn an_update_runs_before_up_but_not_at_a_first_deploy() {
        let order = order("deploy", r#"{"repo": "/srv/shop", "branch": "b", "master": "n", "update": true}"#);
        let members = members("n a");
        for (old, expected) in [
            (Some("n"), "clone check pull build maintenance stop snapshot update up await-healthy register schedule commit settle |"),
            (Some("a"), "clone check pull build ready await-sent restore update up await-healthy register schedule commit settle |"),
            (Some("z"), "clone check pull build restore-replica update up await-healthy register schedule commit settle |"),
            (None, "clone check pull build up await-healthy register schedule commit settle |"),
        ] {
            let record = old.map(|master| record(REPO, master, None));
            assert_eq!(
                of(&order, &Facts { members: &members, record: record.as_ref(), source_record: None, lost: None, held: false }, "n"),
                expected
            );
        }
    }

    #[test]
    fn data_that_was_sent_is_used_even_if_its_sender_has_died_since() {
        let mut order = order("deploy", r#"{"repo": "/srv/shop", "branch": "b", "master": "n"}"#);
        order.state = State::Sent;
        let record = record(REPO, "a", None);
        let facts = Facts { members: &members("n a-"), record: Some(&record), source_record: None, lost: None, held: false };
        assert!(plan(&order, &facts, &node("n")).unwrap().steps.contains(&Step::Restore));
    }

    #[test]
    fn destroy() {
        let order = order("destroy", r#"{"repo": "/srv/shop", "branch": "b"}"#);
        let record = record(REPO, "a", Some("b"));
        let all = |alive: &str| {
            let members = members(alive);
            let facts = Facts { members: &members, record: Some(&record), source_record: None, lost: None, held: false };
            ["a", "b", "c"].map(|name| of(&order, &facts, name))
        };
        let master = "maintenance stop snapshot commit-destroy deregister unschedule remove |";
        let slave = "| remove-checkouts unschedule";
        assert_eq!(all("a b c"), [master, slave, "|"]);
        assert_eq!(all("a- b c"), ["| fence remove-checkouts", "commit-destroy | remove-checkouts unschedule", "|"]);
        assert_eq!(all("a- b- c"), ["| fence remove-checkouts", slave, "commit-destroy |"]);
    }

    #[test]
    fn migrate() {
        let payload = |update| format!(r#"{{"repo": "{REPO}", "branch": "b", "target": {{"repo": "{COPY}"}}, "update": {update}}}"#);
        let members = members("a b c");
        let all = |update: bool, from: &str, to: &str| {
            let (source, target) = (record(REPO, from, None), record(COPY, to, Some("c")));
            let facts = Facts { members: &members, record: Some(&target), source_record: Some(&source), lost: None, held: false };
            ["a", "b", "c"].map(|name| of(&order("migrate", &payload(update)), &facts, name))
        };
        let switch = "maintenance stop snapshot restore-source post-migrate";
        let here = format!("check snapshot-source {switch} update up await-healthy commit-migrate reopen |");
        assert_eq!(all(true, "a", "a"), [&here, "|", "|"]);
        let there = format!("check await-sent {switch} up await-healthy commit-migrate reopen |");
        assert_eq!(all(false, "a", "b"), ["snapshot-source |", &there, "|"]);
    }

    #[test]
    fn what_nobody_can_carry_out_is_refused_with_the_reason() {
        let deploy = r#"{"repo": "/srv/shop", "branch": "b", "master": "n", "slave": "x"}"#;
        let migrate = r#"{"repo": "/srv/shop", "branch": "b", "target": {"repo": "/srv/copy"}}"#;
        let (shop, copy) = (record(REPO, "a", None), record(COPY, "n", None));
        let name = |repo| order("destroy", &format!(r#"{{"repo": "{repo}", "branch": "b"}}"#)).name;
        let (shop_name, copy_name) = (name(REPO), name(COPY));
        for (event, payload, record, source_record, expected) in [
            ("deploy", deploy, None, None, "slave: \"x\" is no member of the cluster; the members are n, a".to_string()),
            (
                "destroy",
                r#"{"repo": "/srv/shop", "branch": "b"}"#,
                None,
                None,
                format!("nothing to destroy: no application {shop_name} is deployed"),
            ),
            ("migrate", migrate, None, Some(&shop), format!("target: no application {copy_name} is deployed; deploy it first")),
            ("migrate", migrate, Some(&copy), None, format!("nothing to copy from: no application {shop_name} is deployed")),
            (
                "migrate",
                migrate,
                Some(&copy),
                Some(&shop),
                format!("a, the master of {shop_name}, is not alive; deploy {shop_name} to another node first"),
            ),
        ] {
            let facts = Facts { members: &members("n a-"), record, source_record, lost: None, held: false };
            assert_eq!(plan(&order(event, payload), &facts, &node("n")).unwrap_err().to_string(), expected);
        }
    }
}
