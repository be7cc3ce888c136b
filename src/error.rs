//! What went wrong, as callers tell it apart. The kind lives as long as the error; only who shows it makes a text of it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::names::{AppName, Invalid, NodeName, Project, Snapshot, VariableName, Volume};
use crate::model::replica::Seen;
use crate::model::{event, json, order, variables};
use crate::outside::consul::Entry;
use crate::outside::{caddy, cmd, compose, compose_file, consul, disk, engine, plugin};
use crate::routes;

#[derive(Debug)]
pub enum Error {
    Consul(consul::Error),
    Engine(engine::Error),
    Plugin(plugin::Error),
    Caddy(caddy::Error),
    Command(cmd::Error),
    Compose(compose::Error),
    Disk(disk::Error),
    /// A compose file that cannot be used.
    ComposeFile {
        file: &'static str,
        source: compose_file::Error,
    },
    /// What services say of their routes.
    Routes(routes::Error),
    Variables(variables::Error),
    /// What stands in a file or under a key is not what it should be.
    Json {
        at: String,
        what: &'static str,
        source: serde_json::Error,
    },
    Events(event::Error),
    Request {
        event: String,
        source: order::Refused,
    },
    /// A word of the command line.
    Name {
        what: &'static str,
        source: Invalid,
    },
    Fault(Fault),
    /// Nobody can carry the order out.
    Refused(Box<Fault>),
}

/// Situations of the handler's own: each with what is to be known of it.
#[derive(Debug)]
pub enum Fault {
    // this node
    AnotherUser {
        folder: PathBuf,
        owner: u32,
        me: u32,
        deploy_dir: PathBuf,
    },
    NoAddress {
        node: String,
    },
    NotAService {
        file: &'static str,
        why: String,
    },
    // orders
    NotOpen {
        id: String,
    },
    /// A name that none, or more than one, has.
    NoSuchName {
        part: String,
        many: bool,
        of: Vec<AppName>,
    },
    Unsaid {
        name: String,
        flag: &'static str,
    },
    NoSuchVariable {
        name: AppName,
        variable: VariableName,
        of: Vec<VariableName>,
    },
    NotEdited {
        why: String,
    },
    NoValue {
        why: String,
    },
    ChangedMeanwhile {
        key: String,
    },
    NoSuchMember {
        node: String,
    },
    NowhereToGo {
        name: AppName,
        node: String,
    },
    NothingEnded {
        of: String,
    },
    /// An order has it in maintenance.
    Maintained {
        name: AppName,
        id: String,
    },
    OldEvent {
        waited: String,
    },
    NotFailed {
        id: String,
        node: String,
    },
    Vanished {
        id: String,
    },
    Unfollowed {
        id: String,
    },
    WorkerFailed {
        log: PathBuf,
    },
    // who carries an order out
    NoMember {
        member: &'static str,
        name: String,
        members: Vec<String>,
    },
    NothingToDestroy {
        app: AppName,
    },
    NobodyAlive {
        app: AppName,
    },
    NoTarget {
        app: AppName,
    },
    RecordGone {
        app: AppName,
        master: NodeName,
    },
    /// The record is gone, and who has the data is dead, or not known.
    NothingKnown {
        app: AppName,
        master: Option<NodeName>,
        node: NodeName,
    },
    /// A migrate.
    NothingToCopy {
        source: Vec<Volume>,
        target: Vec<Volume>,
    },
    NoSource {
        app: AppName,
    },
    DeadMaster {
        node: NodeName,
        app: AppName,
    },
    TooOld {
        node: String,
        version: String,
        needs: u32,
    },
    // one step of an order
    SameProject {
        app: AppName,
        other: AppName,
        project: Project,
    },
    /// A volume or a container.
    Anothers {
        what: &'static str,
        name: String,
        owner: String,
    },
    AnotherDriver {
        volume: Volume,
        found: String,
        driver: String,
    },
    /// The plugin by another name.
    DriverByAnotherName {
        volume: Volume,
        found: String,
        driver: String,
    },
    /// The engine knows it from the plugin.
    NotFoundByPlugin {
        volume: Volume,
    },
    NoReplica {
        master: NodeName,
        volumes: Vec<Volume>,
        /// What there is besides.
        others: Vec<String>,
    },
    /// It was asked to start empty.
    SetElsewhere {
        master: NodeName,
        holder: NodeName,
        age: String,
    },
    NoSet {
        master: NodeName,
        why: Box<Unusable>,
        /// What is here, volume by volume.
        here: Vec<String>,
        /// That would start from it.
        order: String,
    },
    /// A takeover by name.
    NotOfData {
        snapshot: Snapshot,
        volumes: Vec<Volume>,
    },
    NotNamed {
        volumes: Vec<Volume>,
    },
    ReplicaNotAsked {
        master: Option<NodeName>,
    },
    NotArrived {
        snapshot: Snapshot,
    },
    NoImage {
        image: String,
    },
    /// It cannot be sent there, and the plugin takes no other.
    VoidThere {
        snapshot: Snapshot,
        holder: NodeName,
    },
    /// The plugin has taken it.
    Unseen {
        snapshot: Snapshot,
        folder: PathBuf,
    },
    NotWhole {
        snapshot: Snapshot,
        seen: Seen,
    },
    Rebooted {
        node: NodeName,
    },
    NoVolume {
        volume: Volume,
        /// Who has a confirmed set of what is deployed, and how old that is.
        elsewhere: Option<(NodeName, String)>,
    },
    /// Of another driver.
    NoOrdinaryVolume {
        volume: Volume,
    },
    NoCheckout {
        app: AppName,
    },
    VolumeInUse {
        volume: String,
        container: String,
    },
    NotKept {
        volume: Volume,
        snapshot: Snapshot,
    },
    NoBackup {
        volume: Volume,
        snapshot: Snapshot,
    },
    AnotherRepository {
        app: AppName,
        deployed: String,
        ordered: String,
    },
    NewerConfirmed {
        snapshots: Vec<Snapshot>,
    },
    MasterLives {
        master: NodeName,
    },
    NoContainer {
        project: Project,
    },
    Unhealthy {
        why: String,
        last_lines: Option<String>,
    },
    NotHealthyInTime {
        why: String,
        secs: f64,
    },
    RecordChanged {
        app: AppName,
    },
    PeerSlow {
        peer: String,
        what: &'static str,
        secs: u64,
    },
    PeerAbsent {
        peer: String,
        secs: u64,
    },
    PeerDied {
        peer: String,
        what: &'static str,
    },
    // journals
    EmptyJournal,
    NewerJournal {
        version: u32,
    },
    UnknownStep {
        name: String,
    },
    /// What cannot be, but for a mistake of the handler's own: nothing goes on from there.
    Impossible {
        what: &'static str,
    },
}

/// Why a takeover starts from no set by itself.
#[derive(Debug)]
pub enum Unusable {
    None,
    CannotLook {
        folder: PathBuf,
    },
    Before {
        what: String,
        age: String,
    },
    Newer {
        newer: Elsewhere,
        than: String,
    },
    /// Another node has one, this one none of what is in force.
    Elsewhere(Elsewhere),
    Lacks {
        volume: Volume,
    },
    NotWhole {
        snapshot: Snapshot,
        seen: Seen,
    },
}

/// A confirmed set of another node.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    pub holder: NodeName,
    pub age: String,
    pub alive: bool,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Elsewhere { holder, age, alive } = self;
        let back = if *alive { "" } else { ", which is dead, back, and deploy to it," };
        let how = if *alive { "deploy to" } else { "bring" };
        write!(f, "{holder} has one that is {age} old: {how} {holder}{back} to start from that")
    }
}

impl std::error::Error for Error {}

/// What stands under a key in Consul; `what` it should be.
pub fn in_consul<T: DeserializeOwned>(entry: &Entry, what: &'static str) -> Result<T, Error> {
    json::read(&entry.value).map_err(|source| Error::Json { at: format!("{} in Consul", entry.key), what, source })
}

/// The text of what is to stand `at` a path or a key.
pub fn text_of(at: impl fmt::Display, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    json::write(value).map_err(|source| Error::Json { at: at.to_string(), what: "writable", source })
}

impl Error {
    /// Nothing is known of what was asked; nothing may be decided.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self, Error::Consul(consul::Error::OutOfReach { .. }))
    }
}

macro_rules! sources {
    ($($variant:ident($source:ty),)*) => {
        $(impl From<$source> for Error {
            fn from(source: $source) -> Error {
                Error::$variant(source)
            }
        })*
        /// Lets `?` make one of these of whatever can become an [`Error`].
        macro_rules! ends_with_an_error {
            ($end:ty) => {
                $(impl From<$source> for $end {
                    fn from(source: $source) -> $end {
                        $crate::error::Error::from(source).into()
                    }
                })*
            };
        }
    };
}

sources! {
    Consul(crate::outside::consul::Error),
    Engine(crate::outside::engine::Error),
    Plugin(crate::outside::plugin::Error),
    Caddy(crate::outside::caddy::Error),
    Command(crate::outside::cmd::Error),
    Compose(crate::outside::compose::Error),
    Disk(crate::outside::disk::Error),
    Routes(crate::routes::Error),
    Variables(crate::model::variables::Error),
    Fault(crate::error::Fault),
}
pub(crate) use ends_with_an_error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Consul(source) => source.fmt(f),
            Error::Engine(source) => source.fmt(f),
            Error::Plugin(source) => source.fmt(f),
            Error::Caddy(source) => source.fmt(f),
            Error::Command(source) => source.fmt(f),
            Error::Compose(source) => source.fmt(f),
            Error::Disk(source) => source.fmt(f),
            Error::ComposeFile { file, source } => write!(f, "{file}: {source}"),
            Error::Routes(source) => source.fmt(f),
            Error::Variables(source) => source.fmt(f),
            Error::Json { at, what, source } => write!(f, "{at} is not {what}: {source}"),
            Error::Events(source) => source.fmt(f),
            Error::Request { event, source } => write!(f, "{event}: {source}"),
            Error::Name { what, source } => write!(f, "{what}: {source}"),
            Error::Fault(fault) => fault.fmt(f),
            Error::Refused(fault) => write!(f, "refused: {fault}"),
        }
    }
}

fn joined(names: &[impl AsRef<str>]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unusable::None => write!(f, "none has been confirmed here"),
            Unusable::CannotLook { folder } => {
                write!(f, "none has been, since this node cannot look at the snapshots ({} is no folder on btrfs here)", folder.display())
            }
            Unusable::Before { what, age } => write!(f, "the newest, {age} old, is from before {what}"),
            Unusable::Newer { newer, than } => write!(f, "the one here is {than} old, and {newer}"),
            Unusable::Elsewhere(elsewhere) => write!(f, "none here is of what is deployed, and {elsewhere}"),
            Unusable::Lacks { volume } => write!(f, "the newest has no snapshot of {volume}"),
            Unusable::NotWhole { snapshot, seen } => write!(f, "of the newest the snapshot {snapshot} {seen}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::AnotherUser { folder, owner, me, deploy_dir } => write!(
                f,
                "{} belongs to the user {owner}, this runs as {me}; run it as that user (docker exec --user {owner} …), or give this one \
                 all of {} (chown -R {me})",
                folder.display(),
                deploy_dir.display()
            ),
            Fault::NoAddress { node } => write!(f, "the address of {node} is unknown: is it a member of the cluster (consul members)?"),
            Fault::NotAService { file, why } => write!(f, "{file}: {why}"),
            Fault::NotOpen { id } => write!(f, "the order {id} is not open"),
            Fault::NoSuchName { part, of, .. } if of.is_empty() => write!(f, "{part:?}: no application is deployed"),
            Fault::NoSuchName { part, many, of } => {
                let of = joined(&of.iter().map(|name| &**name).collect::<Vec<&str>>());
                match many {
                    true => write!(f, "{part:?} may be any of {of}: say more of its name"),
                    false => write!(f, "no application of the name {part:?} is deployed; there are {of}"),
                }
            }
            Fault::Unsaid { name, flag } => write!(f, "{name} is not deployed yet: say {flag}"),
            Fault::NoSuchVariable { name, variable, of } if of.is_empty() => write!(f, "{name} has no variable {variable}, nor any other"),
            Fault::NoSuchVariable { name, variable, of } => {
                let of = joined(&of.iter().map(|name| &**name).collect::<Vec<&str>>());
                write!(f, "{name} has no variable {variable}; it has {of}")
            }
            Fault::NoValue { why } => write!(f, "no value was given: {why}"),
            Fault::NotEdited { why } => write!(f, "the variables cannot be read: {why}"),
            Fault::ChangedMeanwhile { key } => write!(f, "somebody else has changed {key} meanwhile: nothing was changed; try again"),
            Fault::NoSuchMember { node } => write!(f, "{node:?} is no member of the cluster"),
            Fault::NowhereToGo { name, node } => {
                write!(f, "{name} has no slave that is alive: nothing is moved away from {node}; say where to with --to NODE")
            }
            Fault::NothingEnded { of } => write!(f, "no order of {of:?} has ended"),
            Fault::Maintained { name, id } => write!(f, "{name} is in maintenance by the order {id}, which ends that itself"),
            Fault::NotFailed { id, node } => {
                write!(f, "the order {id} has not failed: there is no undo on {node} to give up; handler cancel {id} fails it")
            }
            Fault::Vanished { id } => write!(f, "the order {id} is neither open nor in the history"),
            Fault::Unfollowed { id } => write!(f, "the order {id} has not ended; it goes on without being followed"),
            Fault::WorkerFailed { log } => write!(f, "the order is done, but this node has something left to do; see {}", log.display()),
            Fault::NoMember { member, name, members } => {
                write!(f, "{member}: {name:?} is no member of the cluster; the members are {}", members.join(", "))
            }
            Fault::NothingToDestroy { app } => write!(f, "nothing to destroy: no application {app} is deployed"),
            Fault::NobodyAlive { app } => write!(f, "no node is alive to destroy {app}"),
            Fault::NothingKnown { app, master, node } => {
                let elsewhere = match master {
                    Some(master) => format!("{master}, which ran it by its last order, is dead"),
                    None => format!("{node} does not know itself as its master"),
                };
                write!(
                    f,
                    "the record of {app} is gone, and {elsewhere}: deployed on {node} it would begin without its data. Put the record back, or \
                     restore its volumes on {node} (buttervolume snapshots lists what is there, buttervolume restore SNAPSHOT VOLUME), and then \
                     deploy it with \"empty\": true"
                )
            }
            Fault::RecordGone { app, master } => {
                write!(f, "the record of {app} is gone, and {master} ran it last: deploy it there, which keeps what is there; then move it")
            }
            Fault::OldEvent { waited } => {
                write!(
                    f,
                    "the event has waited here for {waited}, and the order may be over long ago: it is not ordered; order it again if need be"
                )
            }
            Fault::NothingToCopy { source, target } => {
                let names = |volumes: &[Volume]| volumes.iter().map(|volume| &**volume).collect::<Vec<_>>().join(", ");
                write!(
                    f,
                    "nothing would be copied: none of the source's data volumes ({}) has a counterpart in the target ({}); those correspond that \
                     have the same key below volumes: in both compose files, and no name: of their own",
                    names(source),
                    names(target)
                )
            }
            Fault::NoTarget { app } => write!(f, "target: no application {app} is deployed; deploy it first"),
            Fault::NoSource { app } => write!(f, "nothing to copy from: no application {app} is deployed"),
            Fault::DeadMaster { node, app } => {
                write!(f, "{node}, the master of {app}, is not alive; deploy {app} to another node first")
            }
            Fault::TooOld { node, version, needs } => {
                write!(
                    f,
                    "{node} is too old for it: its handler is {version}, the order needs one that understands {needs}; upgrade it first"
                )
            }
            Fault::SameProject { app, other, project } => {
                write!(f, "{app} and the deployed {other} would have the same compose project, {project}; rename the branch")
            }
            Fault::Anothers { what, name, owner } => {
                let owner = if owner.is_empty() { "somebody else" } else { owner };
                write!(f, "the {what} {name} belongs to {owner}; give yours another name, or declare a volume as external to share it")
            }
            Fault::AnotherDriver { volume, found, driver } => write!(
                f,
                "the volume {volume} holds the data of the deployed version, but its driver in the compose file is {found}, not {driver}, which \
                 BTRFSDRIVER of this node names; rename the volume to go on without its data"
            ),
            Fault::DriverByAnotherName { volume, found, driver } => write!(
                f,
                "the volume {volume} has the driver {found}, which by its name is the volume plugin, too; BTRFSDRIVER of this node names it \
                 {driver}, and only volumes of that name are taken for data: write {driver}, or have BTRFSDRIVER say {found} on every node"
            ),
            Fault::NotFoundByPlugin { volume } => write!(
                f,
                "the volume {volume} is there by the engine, but the volume plugin says that there is none: see what is wrong with it or its disk, \
                 and order again"
            ),
            Fault::NoReplica { master, volumes, others } => {
                let volumes = joined(&volumes.iter().map(|volume| &**volume).collect::<Vec<&str>>());
                write!(
                    f,
                    "{master}, the master, is dead, and this node has no replica of {volumes}; deploy to a node that has one, or with \
                     \"empty\": true to start without its data"
                )?;
                others.iter().try_for_each(|other| write!(f, "; {other}"))
            }
            Fault::SetElsewhere { master, holder, age } => write!(
                f,
                "{master}, the master, is dead, and {holder} has a confirmed set that is {age} old: deploy to {holder}; to begin without the \
                 data all the same, destroy the application first"
            ),
            Fault::NoSet { master, why, here, order } => write!(
                f,
                "{master}, the master, is dead, and a takeover starts by itself only from a confirmed set: {why}. Here is {}. To start from that, \
                 which nobody answers for: {order}",
                here.join("; ")
            ),
            Fault::NotOfData { snapshot, volumes } => write!(
                f,
                "replica: {snapshot} is of none of the data volumes that are taken over: {}",
                joined(&volumes.iter().map(|volume| &**volume).collect::<Vec<&str>>())
            ),
            Fault::NotNamed { volumes } => write!(
                f,
                "replica: names no snapshot of {}; name one of each data volume, or say \"empty\": true to start without its data",
                joined(&volumes.iter().map(|volume| &**volume).collect::<Vec<&str>>())
            ),
            Fault::ReplicaNotAsked { master } => {
                let why =
                    master.as_ref().map_or("the application is not deployed".into(), |master| format!("{master} is the master and lives"));
                write!(f, "replica: nothing is taken over, {why}; leave it out")
            }
            Fault::NotWhole { snapshot, seen } => write!(f, "the snapshot {snapshot} {seen}; nothing is restored"),
            Fault::Rebooted { node } => write!(
                f,
                "{node} has lost its power or was rebooted since the sending began: what it has received may be hollow; order again"
            ),
            Fault::NotArrived { snapshot } => {
                write!(f, "the snapshot {snapshot} is not on this node (buttervolume snapshots lists what is); nothing is restored")
            }
            Fault::NoImage { image } => {
                write!(f, "what {image} was for the old version is gone (docker image prune?): load it, and give it that name (docker tag)")
            }
            Fault::VoidThere { snapshot, holder } => write!(
                f,
                "{snapshot} is on {holder} from a try that failed, and is not sent over that; nobody has written to its volume since, and it \
                 is not this program's to remove here: buttervolume rm {snapshot} on {holder}"
            ),
            Fault::Unseen { snapshot, folder } => write!(
                f,
                "the snapshot {snapshot} was taken, but is not in {}: mount the volume plugin's folder there, or have HANDLER_SNAPSHOTS say where \
                 it is",
                folder.display()
            ),
            Fault::NoVolume { volume, elsewhere } => {
                write!(
                    f,
                    "the record names the data volume {volume}, but the volume plugin has none of this name; nothing is done without it: "
                )?;
                match elsewhere {
                    Some((holder, age)) => write!(
                        f,
                        "{holder} has a confirmed set that is {age} old. To start from that, have this node leave the cluster (consul leave), \
                         deploy to {holder}, and let it join again; or restore it here from a snapshot"
                    ),
                    None => {
                        write!(f, "restore it from a snapshot, or begin with none of its data (docker volume create), then order again")
                    }
                }
            }
            Fault::NoOrdinaryVolume { volume } => write!(
                f,
                "the volume {volume} is not there, and compose would make it anew, empty; nothing is started without it: bring it back, or make \
                 it yourself (docker volume create)"
            ),
            Fault::NoCheckout { app } => write!(f, "this node has no checkout of {app}; deploy it again"),
            Fault::VolumeInUse { volume, container } => {
                write!(f, "the volume {volume} is not removed: the container {container} stands on it")
            }
            Fault::NotKept { volume, snapshot } => {
                write!(f, "the volume {volume} is not removed: its snapshot {snapshot} was taken, but the volume plugin does not list it")
            }
            Fault::NoBackup { volume, snapshot } => write!(
                f,
                "{snapshot} was restored over {volume}, and the volume plugin has not said as what it keeps the content that was there; look \
                 for it in its snapshots before anything else"
            ),
            Fault::AnotherRepository { app, deployed, ordered } => {
                write!(
                    f,
                    "{app} is deployed from {deployed}, the order is for {ordered}: they would have one name; rename the branch or the \
                     repository, or say \"repo_moved\": true if it is on another host now"
                )
            }
            Fault::NewerConfirmed { snapshots } => {
                let names: Vec<&str> = snapshots.iter().map(|snapshot| &**snapshot).collect();
                write!(f, "a newer set was confirmed while this one was being started: {}; give the order again", names.join(", "))
            }
            Fault::MasterLives { master } => write!(
                f,
                "{master}, which was dead when the order was taken, lives after all and has the newer data; order again to move it from there"
            ),
            Fault::NoContainer { project } => write!(f, "the project {project} has no container"),
            Fault::Unhealthy { why, last_lines: Some(lines) } => write!(f, "{why}; its last lines:\n{}", lines.trim_end()),
            Fault::Unhealthy { why, last_lines: None } => f.write_str(why),
            Fault::NotHealthyInTime { why, secs } => write!(f, "{why}, after {secs} s"),
            Fault::RecordChanged { app } => write!(f, "the record app/{app} was changed by somebody else meanwhile"),
            Fault::PeerSlow { peer, what, secs } => write!(f, "{peer} did not {what} within {secs} s"),
            Fault::PeerAbsent { peer, secs } => write!(f, "{peer} did not take its part within {secs} s; does its handler run?"),
            Fault::PeerDied { peer, what } => write!(f, "{peer} has died before it could {what}"),
            Fault::EmptyJournal => write!(f, "is empty"),
            Fault::NewerJournal { version } => write!(f, "was written by a newer handler (format {version}); start that one again"),
            Fault::UnknownStep { name } => write!(f, "has a step that this handler does not know: {name:?}"),
            Fault::Impossible { what } => write!(f, "cannot be: {what} (a mistake of the handler's own; please report it)"),
        }
    }
}
