//! What takes too long, or starts too much, for a health check: looked at once an hour, apart, and left in a file for it to read.

use std::time::Duration;

use log::{debug, info};
use serde::{Deserialize, Serialize};

use super::start;
use crate::about;
use crate::error::{Error, text_of};
use crate::here::Here;
use crate::model::json;
use crate::model::keys;
use crate::model::members::Member;
use crate::outside::cmd::{self, Cmd};
use crate::outside::compose::Tool;
use crate::outside::consul::Configured;
use crate::outside::plugin;

const EVERY: Duration = Duration::from_secs(3600);
/// Where something was wrong, somebody is mending it, or a member was on its way up.
const AGAIN: Duration = Duration::from_secs(60);
/// The plugins' own port, and how long a member has to answer there.
const PORT: &str = "1122";
const PATIENCE: Duration = Duration::from_secs(10);
/// Ages of data are said by clocks.
const APART: u64 = 5;
/// In the watches.json of the image.
const WATCHES: usize = 6;
/// The oldest engine that this was tried with.
const ENGINE: u32 = 20;

/// As lines of text, without what they begin with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    boot: String,
    /// In seconds since the boot.
    at: u64,
    pub wrong: Vec<String>,
    pub notes: Vec<String>,
}

/// What the last look has found, if it was not too long ago, and whether it is time for the next one.
pub fn last(here: &Here) -> (Option<Probed>, bool) {
    let text = here.world.read_file(&here.paths.probed(), 1 << 20).ok().flatten();
    let probed = text.and_then(|text| json::read::<Probed>(&text).ok());
    let now = here.world.clock.uptime().as_secs();
    let age = |probed: &Probed| now.checked_sub(probed.at).filter(|age| probed.boot == start::boot(here) && *age < EVERY.as_secs());
    let Some(age) = probed.as_ref().and_then(age) else { return (None, true) };
    let again = probed.as_ref().is_some_and(|probed| !probed.wrong.is_empty()) && age >= AGAIN.as_secs();
    (probed, again)
}

/// Looks, and leaves what it finds.
pub fn probe(here: &Here) -> Result<Probed, Error> {
    let mut probed = Probed { boot: start::boot(here), at: here.world.clock.uptime().as_secs(), ..Probed::default() };
    if let Err(why) = Tool::find(&here.world) {
        probed.wrong.push(Error::from(why).to_string());
    }
    match here.engine().version() {
        Ok(version) if version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < ENGINE) => {
            probed.wrong.push(format!(
                "Docker's engine is {version}, the oldest that this handler is known to work with is {ENGINE}.10: upgrade it"
            ));
        }
        Ok(version) => debug!("engine {version}"),
        Err(why) => debug!("{why}"), // each check asks it
    }
    if let Err(why) = may_write(here) {
        probed
            .wrong
            .push(format!("{why}; with ACLs, give the agent's handler a token (CONSUL_HTTP_TOKEN) that may write keys and services"));
    }
    if let Some(Err(why)) = here.caddy(here.settings.timeouts.proxy).map(|caddy| caddy.adapt("http://a.example.com {\n}\n")) {
        probed.wrong.push(format!(
            "{why}; does Caddy run with the CADDY_ADMIN of this handler's docker-compose.yml? Deploys with a CADDYFILE are refused"
        ));
    }
    match here.consul.configured() {
        Ok(configured) => of_agent(&configured, &mut probed),
        Err(why) => probed.wrong.push(why.to_string()),
    }
    match here.consul.members() {
        Ok(members) => of_members(here, &members, &mut probed)?,
        Err(why) => probed.wrong.push(why.to_string()),
    }
    let path = here.paths.probed();
    let text = text_of(path.display(), &probed)?;
    here.world.replace_file(&path, &text, false)?;
    info!("looked at what this node needs: {} wrong", probed.wrong.len());
    Ok(probed)
}

/// What this node says of itself, once more: nobody is woken by that.
fn may_write(here: &Here) -> Result<(), Error> {
    about::tell(here)?;
    let key = keys::node(here.me()?);
    if let Some(entry) = here.consul.get(&key)? {
        here.consul.cas(&key, &entry.value, entry.modify_index)?;
    }
    Ok(())
}

/// Without its watches nobody hears of an order here, and without its check nobody of what is wrong.
fn of_agent(configured: &Configured, probed: &mut Probed) {
    let lacks = |what: String, file: &str| {
        format!("{what}: start the agent with the {file} of this handler's image as a -config-file; there it is /etc/handler/{file}")
    };
    if let Some(watches) = configured.watches.as_ref().filter(|watches| watches.len() < WATCHES) {
        let what = format!("Consul's agent has {} watches, and this handler is started by {WATCHES}", watches.len());
        probed.wrong.push(lacks(what, "watches.json"));
    }
    let is_ours = |args: &[String]| args.last().is_some_and(|last| last == "check") && args.iter().any(|word| word.ends_with("handler"));
    if configured.checks.as_ref().is_some_and(|checks| !checks.iter().any(|check| is_ours(&check.script_args))) {
        probed.wrong.push(lacks("no check of Consul's agent runs handler check".into(), "check.json"));
    }
}

fn of_members(here: &Here, members: &[Member], probed: &mut Probed) -> Result<(), Error> {
    let me = here.me()?;
    let others: Vec<&Member> = members.iter().filter(|member| member.name != **me && member.alive).collect();
    if others.is_empty() {
        probed
            .notes
            .push("this node is the only member of the cluster that lives; consul members, and JOIN of its .env, say who should".into());
    }
    // Where nothing is sent, nobody need be reached.
    let sends = !matches!(here.plugin().schedules(), Err(plugin::Error::Unanswered { .. }));
    let unreached = if sends { &mut probed.wrong } else { &mut probed.notes };
    let (mut apart_from, mut shut) = (Vec::new(), Vec::new());
    for Member { name, address, .. } in others {
        let before = here.world.clock.now();
        let answer = ssh(here, address).read(&here.world);
        let after = here.world.clock.now();
        match answer {
            Ok(text) => {
                let theirs = text.trim().parse::<i64>().ok();
                let apart = theirs.map_or(0, |theirs| (before.secs - theirs).max(theirs - after.secs).max(0) as u64);
                if apart > APART {
                    apart_from.push(format!("the clocks of this node and {name} differ by {apart} s: ages of data are said by them; does NTP run?"));
                }
            }
            // The plugin may have its keys elsewhere.
            Err(cmd::Error::Exit { tail, .. }) if tail.contains("Permission denied") => shut.push(format!(
                "sshd of {name} answers on port {PORT}, but lets this node in neither with the volume plugin's key nor with root's: put its public key into the plugin's ssh/authorized_keys of {name}"
            )),
            Err(why) => unreached.push(format!(
                "{name} is not reached by ssh on port {PORT}, by which volumes are sent: does its sshd run there, and does a firewall let it through? {why}"
            )),
        }
    }
    probed.wrong.extend(apart_from);
    probed.notes.extend(shut);
    Ok(())
}

/// Asks for the time there, with the plugin's keys, or with root's, which it has where it runs in no container of its own. Whose host key it is
/// does not matter: nothing is said to it.
fn ssh(here: &Here, address: &str) -> Cmd {
    let mut cmd = Cmd::new("ssh", PATIENCE).args(["-p", PORT]);
    for option in ["BatchMode=yes", "ConnectTimeout=5", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
        cmd = cmd.args(["-o", option]);
    }
    for folder in [here.settings.snapshots.with_file_name("ssh"), "~/.ssh".into()] {
        for key in ["id_ed25519", "id_rsa", "id_ecdsa"] {
            cmd = cmd.args(["-o", &format!("IdentityFile={}", folder.join(key).display())]);
        }
    }
    cmd.args(["-l", "root", "--", address, "date", "+%s"])
}
