//! Every rule of a step, in one row. A new step is one row and its two functions.

use std::fmt;

use super::output::Output;
use super::run::Run;
use super::{Done, Stop, commit, handover, prepare, retire, switch, takeover, turn};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// A node whose power failed during this step may believe that it had not begun: it changes nothing here that a step before it or
    /// Consul would not tell of.
    Repeatable,
    /// Over before anybody could read that it has begun.
    Quick,
    /// After it has succeeded there is no way back.
    Commit,
    /// From here on the application is down or in two places: better wait long for Consul than leave it so.
    Away,
    /// May change what the volumes hold.
    Writes,
    /// Puts other volumes in the place of those that containers may stand on.
    Replaces,
    /// Where its undo fails, nothing before it is undone: nothing is restored below running containers, nothing started on data that is not
    /// restored.
    Gate,
}

pub enum Undo {
    /// It leaves nothing to undo, or another step's undo undoes it, too.
    Nothing,
    By(fn(&mut Run, Option<Output>) -> Done),
}

pub struct Row {
    /// `send-ahead`: in the log, in an order's progress, in journals. Once given it stays.
    pub name: &'static str,
    /// For people.
    pub text: &'static str,
    flags: &'static [Flag],
    pub act: fn(&mut Run) -> Result<Output, Stop>,
    /// Gets what the step has left, if it came so far.
    pub undo: Undo,
}

impl Row {
    pub fn is(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}

macro_rules! steps {
    ($($step:ident, $name:literal, $text:literal, [$($flag:ident)*], $act:expr, $undo:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($step,)*
        }

        impl Step {
            pub const ALL: &[Step] = &[$(Step::$step,)*];

            pub fn row(self) -> &'static Row {
                use {Flag::*, Undo::*};
                match self {
                    $(Step::$step => const { &Row { name: $name, text: $text, flags: &[$($flag,)*], act: $act, undo: $undo } },)*
                }
            }
        }
    };
}

#[rustfmt::skip]
steps! {
    // prepare: nothing has stopped yet
    Clone, "clone", "clone the branch",
        [Repeatable], prepare::clone, By(prepare::remove_checkout);
    Check, "check", "read the compose file, check routes and volumes",
        [Repeatable Quick], prepare::check, Nothing;
    Pull, "pull", "pull images",
        [Repeatable], prepare::pull, By(prepare::give_back);
    Build, "build", "build images",
        [Repeatable], prepare::build, By(prepare::give_back);

    // the hand-over between two nodes
    SendAhead, "send-ahead", "snapshot the volumes and send them while the application runs",
        [], handover::send_ahead, Nothing;
    Ready, "ready", "say that everything is ready here",
        [Repeatable], handover::ready, Nothing;
    AwaitReady, "await-ready", "wait until the new master is ready",
        [Repeatable Away], handover::await_ready, Nothing;
    Send, "send", "send the snapshots and say so",
        [], handover::send, Nothing;
    AwaitSent, "await-sent", "wait until the old master has stopped and sent its snapshots",
        [Repeatable Away], handover::await_sent, Nothing;
    AwaitDone, "await-done", "wait until the new master serves",
        [Repeatable Commit], handover::await_done, Nothing;
    SnapshotSource, "snapshot-source", "snapshot the volumes of the source application and send them",
        [Repeatable], handover::snapshot_source, Nothing;

    // switch
    Maintenance, "maintenance", "show the maintenance page",
        [Quick], switch::maintenance_on, By(switch::maintenance_off);
    Turn, "turn", "lead requests to the new master, where they wait",
        [Repeatable], turn::turn, Nothing;                  // undone with the maintenance
    Stop, "stop", "stop the application",
        [Away Gate], switch::stop, By(switch::start_old);
    Snapshot, "snapshot", "snapshot the volumes",
        [Repeatable Quick Gate], switch::snapshot, By(switch::restore_own);
    Restore, "restore", "restore the snapshots that were sent",
        [Replaces], switch::restore, By(switch::remove_restored);
    RestoreReplica, "restore-replica", "restore the confirmed set that the dead master had sent here, or what the order names",
        [Replaces], takeover::restore_replica, By(switch::remove_restored);
    RestoreSource, "restore-source", "restore the source's snapshots into the volumes",
        [Writes], switch::restore_source, Nothing;          // undone with the snapshots of the switch
    PostMigrate, "post-migrate", "run post_migrate.sh",
        [Writes], switch::post_migrate, Nothing;            // the same
    Update, "update", "run update.sh",
        [Writes], switch::update_script, By(switch::restore_kept);
    Up, "up", "start the application",
        [Writes Gate], switch::up, By(switch::down);
    AwaitHealthy, "await-healthy", "wait until every container is healthy",
        [Repeatable], switch::await_healthy, Nothing;

    // commit
    Register, "register", "register the service with its checks",
        [Quick], commit::register, By(commit::register_old);
    Schedule, "schedule", "schedule snapshots or replication, and purge, where the handler keeps no sets",
        [Quick], commit::schedule, By(commit::schedule_old);
    Commit, "commit", "write the record, end maintenance, finish the order",
        [Repeatable Quick Commit], commit::commit, Nothing;
    CommitMigrate, "commit-migrate", "end maintenance, finish the order",
        [Repeatable Quick Commit], commit::commit_migrate, Nothing;
    CommitDestroy, "commit-destroy", "delete the record, finish the order",
        [Repeatable Quick Commit], commit::commit_destroy, Nothing;

    // after the commit: only forward; the first of them is on the disk: Consul may be put back, and would not tell of the commit any more
    Settle, "settle", "remember the deployment, remove the old checkout",
        [], retire::settle, Nothing;
    Reopen, "reopen", "let the containers come back with the engine again",
        [], retire::reopen, Nothing;
    Deregister, "deregister", "deregister the service",
        [], retire::deregister, Nothing;
    Unschedule, "unschedule", "end the volumes' schedules",
        [Repeatable], retire::unschedule, Nothing;
    Remove, "remove", "remove containers and volumes, keep the snapshots",
        [], retire::remove, Nothing;
}

impl Step {
    /// By the name that journals have.
    pub fn named(name: &str) -> Option<Step> {
        Step::ALL.iter().copied().find(|step| step.row().name == name)
    }

    pub fn is(self, flag: Flag) -> bool {
        self.row().is(flag)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.row().text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal of another version is read by these: a name that was given once stays.
    #[test]
    fn names_are_those_that_journals_have() {
        let names: Vec<&str> = Step::ALL.iter().map(|step| step.row().name).collect();
        assert_eq!(
            names.join(" "),
            "clone check pull build send-ahead ready await-ready send await-sent await-done snapshot-source maintenance turn stop snapshot restore \
             restore-replica restore-source post-migrate update up await-healthy register schedule commit commit-migrate commit-destroy \
             settle reopen deregister unschedule remove"
        );
        for step in Step::ALL {
            assert_eq!(Step::named(step.row().name), Some(*step));
        }
    }

    #[test]
    fn what_has_no_undo_is_before_the_switch_or_undone_by_another() {
        for step in Step::ALL.iter().filter(|step| step.is(Flag::Writes) || step.is(Flag::Replaces)) {
            let undone_by_snapshot = step.is(Flag::Writes);
            assert!(undone_by_snapshot || matches!(step.row().undo, Undo::By(_)), "{step:?}");
        }
    }
}
