//! One proxy's file: checked, replaced, and read again by its proxy.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, error, info, warn};
use serde_json::Value;

use super::compose::composed;
use super::error::Error;
use super::view::{Frame, Routed, View};
use crate::error;
use crate::model::json;
use crate::outside::caddy::{self, Caddy};
use crate::outside::doors::World;
use crate::outside::process::{self, Cmd};

/// The proxies' own commands.
const QUICK: Duration = Duration::from_secs(120);
/// Of the memory of who was refused.
const MOST: u64 = 1 << 20;
/// Then who was refused is tried again: it may have been for want of something else.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// From this exit status on it is not the proxy's: of the engine or the shell that could not start it, or of a signal.
const NOT_ITS_OWN: i32 = 125;

pub struct ProxyFile {
    pub name: &'static str,
    pub folder: PathBuf,
    /// Who makes its own configuration of the text, and takes it; otherwise that is the text.
    pub caddy: Option<Caddy>,
    pub check: Vec<String>,
    pub reload: Vec<String>,
    pub has: fn(&Routed) -> bool,
    pub written: fn(&[&Routed], &View) -> String,
}

impl ProxyFile {
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// What the proxy itself reads: at its start, and where the file is only what that is made of.
    fn own_name(&self) -> &'static str {
        if self.caddy.is_some() { "caddy.json" } else { self.name }
    }

    fn own_text<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, error::Error> {
        match &self.caddy {
            Some(caddy) => Ok(composed(text, |text| caddy.adapt(text))?.into()),
            None => Ok(text.into()),
        }
    }

    /// A Caddy that is given its own configuration runs as root, and hashes of passwords stand there. haproxy does not, in the official image, and
    /// nothing of that kind is in its file.
    fn replace(&self, world: &World, path: &Path, text: &str, synced: bool) -> Result<(), error::Error> {
        let replaced = match &self.caddy {
            Some(_) => world.replace_file(path, text.as_bytes(), synced),
            None => world.replace_shared_file(path, text.as_bytes(), synced),
        };
        Ok(replaced?)
    }

    /// Exists while the proxy has not read its file again.
    fn unread(&self) -> PathBuf {
        self.folder.join(format!(".{}.unread", self.name))
    }

    /// The text that was refused, and who was left out of it: a JSON list of the text's sum and the names.
    fn refused(&self) -> PathBuf {
        self.folder.join(format!(".{}.refused", self.name))
    }

    fn all<'a>(&self, apps: &'a [Routed]) -> Vec<&'a Routed> {
        apps.iter().filter(|app| (self.has)(app)).collect()
    }

    /// Whether the file has exactly this text. One that cannot be read has not.
    fn is(&self, world: &World, text: &str) -> bool {
        let read = world.read_file(&self.path(), text.len() as u64);
        read.is_ok_and(|bytes| bytes.is_some_and(|bytes| bytes == text.as_bytes()))
    }

    /// Whether the proxy has read it, as far as is known.
    pub fn is_read(&self, world: &World) -> bool {
        !world.is_file(&self.unread())
    }

    pub fn is_current(&self, world: &World, apps: &[Routed], view: &View) -> bool {
        self.is(world, &(self.written)(&self.all(apps), view)) && self.is_read(world)
    }

    /// Brings the file up to date; the applications and certificates that are left out of it.
    pub fn update(&self, world: &World, apps: &[Routed], view: &View) -> Result<Vec<String>, Error> {
        let (all, path, unread) = (self.all(apps), self.path(), self.unread());
        let text = (self.written)(&all, view);
        let (text, bad) = if self.is(world, &text) { (text, Vec::new()) } else { self.accepted(world, &all, view, text)? };
        if !self.is(world, &text) {
            world.replace_file(&unread, b"", true)?;
            self.replace(world, &path, &text, true)?;
            info!("{} written for {} applications", path.display(), all.len() - bad.len());
        }
        if world.is_file(&unread) {
            match (&self.caddy, self.reload.as_slice()) {
                (Some(caddy), _) => {
                    let own = self.own_text(&text)?;
                    caddy.load(&own).map_err(error::Error::from)?;
                    // For its next start, so only once it has taken it.
                    self.replace(world, &self.folder.join(self.own_name()), &own, true)?;
                }
                (None, []) => debug!("no command is set to have {} read again", self.name),
                (None, words) => cmd(words, &path).run(world)?,
            }
            world.remove_file(&unread)?;
        }
        Ok(bad)
    }

    /// Why the proxy would not take this application beside the others. An error: nobody can say, or it takes nobody.
    pub fn refusal(&self, world: &World, apps: &[Routed], view: &View, name: &str) -> Result<Option<error::Error>, Error> {
        let bad = match sift(&self.all(apps), &mut |apps| self.check(world, &(self.written)(apps, view))) {
            Ok(bad) => bad,
            Err(why) => {
                if let Some((view, _)) = self.without_bad_certificates(world, view) {
                    return self.refusal(world, apps, &view, name);
                }
                let of_nobody = self.check(world, &(self.written)(&[], view))?;
                return Err(of_nobody.map_or(Error::Other(why), |why| Error::CheckFails { file: self.name, why: Box::new(why) }));
            }
        };
        Ok(bad.into_iter().find(|(app, _)| app.name == name).map(|(_, why)| why))
    }

    /// The text that the proxy accepts, and who had to be left out. What was refused before is not tried again.
    fn accepted(&self, world: &World, all: &[&Routed], view: &View, text: String) -> Result<(String, Vec<String>), Error> {
        let sum = format!("{:x}", md5::compute(&text));
        let without = |bad: &[String]| {
            let good: Vec<&Routed> = all.iter().copied().filter(|app| !bad.contains(&app.name)).collect();
            (self.written)(&good, view)
        };
        // One that cannot be read is made anew.
        let age = |modified| world.clock.now().since(modified);
        let is_fresh = world.look_at(&self.refused())?.is_some_and(|found| age(found.modified) < FORGOTTEN);
        let known = world.read_file(&self.refused(), MOST).ok().flatten().filter(|_| is_fresh);
        let known = known.and_then(|known| json::read::<(String, Vec<String>)>(&known).ok());
        if let Some((_, bad)) = known.filter(|(its_sum, _)| *its_sum == sum) {
            warn!("{}: still left out: {}", self.name, bad.join(", "));
            return Ok((without(&bad), bad));
        }
        let mut check = |apps: &[&Routed]| self.check(world, &(self.written)(apps, view));
        let bad = match sift(all, &mut check) {
            Ok(bad) => bad,
            Err(why @ error::Error::Caddy(caddy::Error::Unanswered(_))) => return Err(Error::Other(why)),
            Err(why) => {
                if let Some((view, wrong)) = self.without_bad_certificates(world, view) {
                    let text = (self.written)(all, &view);
                    return self.accepted(world, all, &view, text).map(|(text, bad)| (text, [wrong, bad].concat()));
                }
                if world.is_file(&self.path()) {
                    return Err(Error::CheckFails { file: self.name, why: Box::new(why) });
                }
                // a proxy that runs in a container may need the file to start at all
                error!("{} is written unchecked: the check fails even without any application, or gives no answer: {why}", self.name);
                return Ok((text, Vec::new()));
            }
        };
        if bad.is_empty() {
            world.remove_file(&self.refused())?;
            return Ok((text, Vec::new()));
        }
        for (app, why) in &bad {
            error!("{} is left out of {}: {why}", app.name, self.name);
        }
        let bad: Vec<String> = bad.into_iter().map(|(app, _)| app.name.clone()).collect();
        let memory = serde_json::json!([sum, bad]).to_string();
        world.replace_file(&self.refused(), memory.as_bytes(), true)?;
        Ok((without(&bad), bad))
    }

    /// The view with those certificates of the operator's alone that the proxy takes, and the others, if it is these that make it take nobody: one in
    /// the middle of a renewal keeps no site from being served.
    fn without_bad_certificates(&self, world: &World, view: &View) -> Option<(View, Vec<String>)> {
        let with =
            |certificates: &[Value]| View { frame: Frame { certificates: certificates.into(), ..view.frame.clone() }, ..view.clone() };
        let refused = |certificates: &[Value]| self.check(world, &(self.written)(&[], &with(certificates)));
        if view.frame.certificates.is_empty() || refused(&[]).ok()?.is_some() {
            return None;
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for one in &view.frame.certificates {
            match refused(std::slice::from_ref(one)).ok()? {
                None => good.push(one.clone()),
                Some(why) => {
                    error!("the certificate {} is wrong, and not used: {why}", one["certificate"]);
                    bad.push(format!("the certificate {}", one["certificate"]));
                }
            }
        }
        (!bad.is_empty()).then(|| (with(&good), bad))
    }

    /// Why the proxy would not take the text; without its program everything is taken. An error: it does not say.
    fn check(&self, world: &World, text: &str) -> Result<Option<error::Error>, error::Error> {
        if self.check.is_empty() {
            return Ok(None);
        }
        let own = match self.own_text(text) {
            Err(why @ (error::Error::Caddy(caddy::Error::Refused { .. }) | error::Error::Fault(_))) => return Ok(Some(why)),
            own => own?,
        };
        // the proxy may look at the name
        let path = self.folder.join(format!("check-{}", self.own_name()));
        self.replace(world, &path, &own, false)?;
        let checked = cmd(&self.check, &path).both(world);
        world.remove_file(&path)?;
        match checked {
            Ok(_) => Ok(None),
            Err(process::Error::NotFound { cmd }) => {
                debug!("{} is not checked: `{cmd}` is not installed here", self.name);
                Ok(None)
            }
            Err(why @ process::Error::Exit { code, .. }) if code < NOT_ITS_OWN => Ok(Some(why.into())),
            Err(error) => Err(error.into()),
        }
    }
}

/// `{path}` is the file, `{name}` its last part, for a command that sees it elsewhere.
fn cmd(words: &[String], path: &Path) -> Cmd {
    let (whole, name) = (path.to_string_lossy(), path.file_name().unwrap_or_default().to_string_lossy());
    let mut words = words.iter().map(|word| word.replace("{path}", &whole).replace("{name}", &name));
    Cmd::new(words.next().unwrap_or_default(), QUICK).args(words)
}

/// Those that are not accepted together with the others, with the reason. By halves, so that few of many are found in few checks. An error
/// is that of nobody: no answer, or a check that fails without those whom it would blame, too.
fn sift<'a, E>(all: &[&'a Routed], check: &mut impl FnMut(&[&Routed]) -> Result<Option<E>, E>) -> Result<Vec<(&'a Routed, E)>, E> {
    if check(all)?.is_none() {
        return Ok(Vec::new());
    }
    if let Some(why) = check(&[])? {
        return Err(why);
    }
    let (mut good, mut bad) = (Vec::with_capacity(all.len()), Vec::new());
    let mut rest = vec![all];
    while let Some(part) = rest.pop() {
        let before = good.len();
        good.extend_from_slice(part);
        if check(&good)?.is_some() {
            good.truncate(before);
            match part {
                [one] => {
                    if let Some(without_it) = check(&good)? {
                        return Err(without_it);
                    }
                    // Once more: the check may have failed for a moment.
                    good.push(*one);
                    if let Some(why) = check(&good)? {
                        good.truncate(before);
                        bad.push((*one, why));
                    }
                }
                several => {
                    let (first, second) = several.split_at(several.len() / 2);
                    rest.extend([second, first]);
                }
            }
        }
    }
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::view::tests::app;
    use super::*;

    #[test]
    fn sifted() {
        let apps: Vec<Routed> = (0..1000).map(|n| app(&n.to_string(), json!({"master": "node1"}))).collect();
        let all: Vec<&Routed> = apps.iter().collect();
        for bad in [vec![], vec!["0"], vec!["999"], vec!["17", "500", "501"]] {
            let mut checks = 0;
            let mut check = |apps: &[&Routed]| {
                checks += 1;
                assert!(apps.is_sorted_by_key(|app| app.name.parse::<u32>().unwrap()));
                Ok::<_, String>(apps.iter().find(|app| bad.contains(&&*app.name)).map(|app| app.name.clone()))
            };
            let found = sift(&all, &mut check).unwrap();
            let found: Vec<_> = found.iter().map(|(app, why)| (&*app.name, &**why)).collect();
            let expected: Vec<_> = bad.iter().map(|name| (*name, *name)).collect();
            assert_eq!(found, expected);
            assert!(checks <= 3 + bad.len() * 22, "{checks}");
        }
        let mut two_alike = |apps: &[&Routed]| match apps.iter().filter(|app| app.name == "1" || app.name == "2").count() {
            2 => Ok::<_, &str>(Some("both")),
            _ => Ok(None),
        };
        let bad = sift(&all, &mut two_alike).unwrap();
        assert_eq!(bad.iter().map(|(app, why)| (&*app.name, *why)).collect::<Vec<_>>(), [("2", "both")]);
        assert_eq!(sift(&all, &mut |_| Ok(Some("broken"))).map(|bad| bad.len()), Err("broken"));
        // From its nth call on the check fails for a while, or gives no answer: nobody is blamed but the one that is to blame.
        for (answer, away) in [(Ok(Some("away")), 1), (Ok(Some("away")), 5), (Err("away"), 1)] {
            for from in 1..40 {
                let mut calls = 0;
                let mut check = |apps: &[&Routed]| {
                    calls += 1;
                    match (from..from + away).contains(&calls) {
                        true => answer,
                        false => Ok(apps.iter().any(|app| app.name == "17").then_some("bad")),
                    }
                };
                let bad = sift(&all, &mut check).unwrap_or_default();
                assert!(bad.iter().all(|(app, _)| app.name == "17"), "{answer:?} {away} {from}");
            }
        }
    }
}
