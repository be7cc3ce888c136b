//! How a replica is, as text for people, and what of it is wrong. Pure.

use std::time::Duration;

use super::sets::{Known, Seen};
use crate::model::members;
use crate::model::names::NodeName;
use crate::model::record::Record;
use crate::model::replica::Replica;
use crate::model::time::{self, Time};

#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub line: String,
    /// The same in a few words.
    pub brief: String,
    pub wrong: Vec<String>,
    /// Nobody confirms anything: one of both nodes cannot look.
    pub blind: bool,
}

/// On the slave of an application; without one what its master keeps for itself. `None`: it has no data.
pub fn of(seen: &Seen, known: &Known, now: Time) -> Option<Told> {
    if known.record.volumes.is_empty() {
        return None;
    }
    let holder = known.holder();
    let replica = known.replicas.get(holder).cloned().unwrap_or_default();
    let looks = |node: &&NodeName| seen.nodes.get(*node).is_some_and(|about| about.confirms);
    let blind = [holder, &known.record.master].into_iter().find(|node| !looks(node));
    let lives = members::alive(&seen.members, &known.record.master);
    let holds = members::alive(&seen.members, holder);
    let mut told = told(holder, &replica, blind, &known.record, (lives, holds), now);
    if lives && !holds {
        told.wrong.insert(0, format!("replica on {holder}: {holder} is dead, or no member any more: nothing is replicated"));
    }
    Some(told)
}

/// `holder` has, or is to have, the replica of what the record is about. It grows no older while its master is dead: nobody writes then.
/// `blind`: which of both does not see the plugin's snapshots, so that nothing is confirmed. `lives`: whether the master does, and the holder.
pub fn told(holder: &NodeName, replica: &Replica, blind: Option<&NodeName>, record: &Record, lives: (bool, bool), now: Time) -> Told {
    let (master_lives, holder_lives) = lives;
    // What the master keeps for itself goes with it.
    let what = match record.slave.is_none() && *holder == record.master {
        true => format!("snapshots on {holder} itself (no slave)"),
        false => format!("replica on {holder}"),
    };
    let mut told = Told { line: format!("{what}: "), ..Told::default() };
    let every = Duration::from_secs(60 * u64::from(replica.every()));
    let age = |taken: &str| Time::parse(taken).map(|taken| now.since(taken));
    if let Some(blind) = blind {
        (told.blind, told.brief) = (true, "unconfirmed".into());
        told.line += &format!(
            "unconfirmed: {blind} cannot look at its snapshots (mount the folder of the volume plugin into its agent's container; see README)"
        );
        // Where it could, once, no more sets are sent; and the plugin replicates only what was deployed since.
        let last = replica.last.as_ref().filter(|last| last.deploy_id == record.deploy_id);
        if let Some(old) = last.and_then(|last| age(&last.taken)).filter(|old| master_lives && *old > 2 * every) {
            told.wrong.push(format!(
                "{what}: the last one that was confirmed is {} old, since {blind} cannot look at its snapshots any more",
                time::age(old)
            ));
        }
        return told;
    }
    told.brief = "none yet".into();
    match &replica.last {
        None => told.line += "none yet",
        Some(last) if !last.is_of(record) => {
            let old = age(&last.taken).map_or("?".into(), time::age);
            told.line += &format!("none yet of what is deployed; one of what was before it, {old} old");
        }
        Some(last) => {
            let old = age(&last.taken);
            told.brief = old.map_or("?".into(), time::age);
            told.line += &format!("confirmed, {} old", told.brief);
            if master_lives && holder_lives {
                let due = Some(replica.due_in(record, now)).filter(|due| *due > 0).map(Duration::from_secs);
                told.line += &due.map_or(", next is due".into(), |due| format!(", next due in {}", time::age(due)));
                told.brief += &due.map_or(", next due".into(), |due| format!(", next {}", time::age(due)));
            }
            if last.millis > 0 {
                told.line += &format!(", took {}.{} s", last.millis / 1000, last.millis % 1000 / 100);
            }
        }
    }
    if let Some(next) = &replica.next {
        let old = age(&next.set.taken).map_or("?".into(), time::age);
        told.line += &format!("; a newer one is on its way, {old} old{}", if next.sent { ", sent and not confirmed yet" } else { "" });
    }
    if replica.failures > 0 {
        let why = replica.reason.as_deref().unwrap_or("for an unknown reason");
        let failed = format!("{} failed in a row, the last: {why}", replica.failures);
        told.line += &format!("; {failed}");
        // A dead master takes no more.
        told.wrong.extend(master_lives.then(|| format!("{what}: {failed}")));
    }
    // What has been deployed a moment ago cannot have one yet, if there never was one. Clocks differ a little; what is of a time to come for
    // longer than that a wrong one has written, and nobody knows how old it is.
    let since = replica.last.as_ref().map_or_else(|| record.deployed(), |last| last.taken.clone());
    let due = format!("one is due every {}", time::age(every));
    match Time::parse(&since).filter(|_| master_lives) {
        Some(since) if now.since(since) > 2 * every => {
            let how = if replica.last.is_none() { "none at all, for" } else { "too old:" };
            told.wrong.push(format!("{what}: {how} {}, and {due}", time::age(now.since(since))));
        }
        Some(since) if since.since(now) > 2 * every => {
            let how = if replica.last.is_none() { "none yet of what was deployed" } else { "taken" };
            told.wrong.push(format!("{what}: {how} by a clock that was {} ahead, and {due}", time::age(since.since(now))));
        }
        _ => {}
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json;

    fn of(replica: serde_json::Value, confirms: bool, master_lives: bool) -> Told {
        at("2026-11-26T12:00:00Z", Some("node2"), replica, confirms, master_lives)
    }

    /// What this slave, or without one the master, has at that time.
    fn at(now: &str, slave: Option<&str>, replica: serde_json::Value, confirms: bool, master_lives: bool) -> Told {
        let record = serde_json::json!({
            "repo_url": "/srv/shop", "branch": "b", "deploy_id": "d", "previous_deploy_id": null, "master": "node1", "slave": slave,
            "deploy_date": "2026-11-26T100000.000000",
        });
        let now = Time::parse(now).unwrap();
        let holder = NodeName::try_from(slave.unwrap_or("node1")).unwrap();
        let blind = (!confirms).then_some(&holder);
        told(&holder, &json::from(replica).unwrap(), blind, &json::from(record).unwrap(), (master_lives, true), now)
    }

    fn set(taken: &str, deploy: &str) -> serde_json::Value {
        let taken = format!("2026-11-26T{taken}:00Z");
        serde_json::json!({"snapshots": {}, "taken": taken, "master": "node1", "deploy_id": deploy, "data_id": "d", "millis": 1234})
    }

    #[test]
    fn dates_of_a_time_to_come_and_deploys_hide_nothing() {
        let of = |now: &str, replica| at(&format!("2026-11-{now}:00Z"), Some("node2"), replica, true, true).wrong.join(" ");
        let none = || serde_json::json!({});
        let last = |taken, deploy| serde_json::json!({"last": set(taken, deploy)});
        for (now, replica, wrong) in [
            // It was deployed on the 26th at 10:00.
            ("26T09:40", none(), ""),
            ("26T10:30", none(), ""),
            ("26T10:31", none(), "none at all, for 31 min"),
            ("25T10:00", none(), "none yet of what was deployed by a clock that was 24 h 0 min ahead, and one is due every 15 min"),
            ("26T12:00", last("12:20", "d"), ""),
            ("26T12:00", last("14:00", "d"), "taken by a clock that was 2 h 0 min ahead"),
            ("26T10:01", last("10:00", "c"), ""),
            ("26T10:01", last("09:00", "c"), "too old: 61 min"),
        ] {
            let told = of(now, replica);
            assert!(told.contains(wrong) && told.is_empty() == wrong.is_empty(), "{now} {wrong}: {told}");
        }
    }

    #[test]
    fn what_the_master_keeps_for_itself_is_no_replica() {
        let told = at("2026-11-26T12:00:00Z", None, serde_json::json!({"last": set("11:53", "d")}), true, true);
        assert!(told.line.starts_with("snapshots on node1 itself (no slave): confirmed, 7 min old"), "{}", told.line);
    }

    #[test]
    fn how_a_replica_is_and_what_is_wrong_with_it() {
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let fine = of(serde_json::json!({"last": set("11:53", "d"), "every": 15}), true, true);
        assert_eq!(fine.line, "replica on node2: confirmed, 7 min old, next due in 8 min, took 1.2 s");
        assert_eq!(fine.wrong, [""; 0]);
        let blind = of(json("{}"), false, true);
        assert!(blind.line.starts_with("replica on node2: unconfirmed: node2 cannot look at its snapshots (mount"), "{}", blind.line);
        for (replica, lives, line, wrong) in [
            (json("{}"), true, "none yet", "none at all, for 2 h 0 min, and one is due every 15 min"),
            (json("{}"), false, "none yet", ""),
            (serde_json::json!({"last": set("11:00", "d")}), true, "confirmed, 60 min old, next is due, took 1.2 s", "too old: 60 min"),
            (serde_json::json!({"last": set("11:00", "d"), "every": 60}), true, "confirmed, 60 min old, next is due", ""),
            (serde_json::json!({"last": set("11:00", "d")}), false, "confirmed, 60 min old, took 1.2 s", ""),
            (
                serde_json::json!({"last": set("09:59", "c")}),
                true,
                "none yet of what is deployed; one of what was before it, 2 h 1 min old",
                "too old",
            ),
            (
                serde_json::json!({"last": set("11:50", "d"), "failures": 3, "reason": "no route", "next": set("11:58", "d")}),
                true,
                "took 1.2 s; a newer one is on its way, 2 min old; 3 failed in a row, the last: no route",
                "3 failed in a row, the last: no route",
            ),
            (serde_json::json!({"failures": 1, "reason": "no route"}), false, "none yet; 1 failed in a row, the last: no route", ""),
        ] {
            let told = of(replica, true, lives);
            assert!(told.line.contains(line), "“{line}” expected in “{}”", told.line);
            assert!(told.wrong.join(" ").contains(wrong) && told.wrong.is_empty() == wrong.is_empty(), "{wrong}: {:?}", told.wrong);
        }
    }
}
