//! Before anything stops: clone, check, pull, build.

use std::collections::{BTreeMap, BTreeSet};

use log::{info, warn};

use super::output::{Checked, Cloned, Images, Output};
use super::run::Run;
use super::table::Step;
use super::{Done, Stop, others};
use crate::credentials;
use crate::data::volumes;
use crate::error::{Error, Fault, text_of};
use crate::model::names::Volume;
use crate::model::order::Request;
use crate::model::record::Understood;
use crate::model::roles::Role;
use crate::outside::doors::Write;
use crate::outside::engine::Engine;
use crate::outside::{compose, compose_file};
use crate::{proxies, routes, service, settings, variables};

pub fn clone(run: &mut Run) -> Result<Output, Stop> {
    remove_checkout(run, None)?;
    let commit = credentials::git(&run.here, &run.name, &run.app.repo, Some(&run.order.id))?.clone(&run.app, &run.folder())?;
    credentials::keep(&run.here, &run.name, &run.order.id)?;
    info!("commit {commit}");
    Ok(Output::Cloned(Cloned { commit }))
}

pub fn remove_checkout(run: &mut Run, _: Option<Output>) -> Done {
    Ok(run.here.world.remove_folder(&run.folder())?)
}

pub fn check(run: &mut Run) -> Result<Output, Stop> {
    let folder = run.folder();
    if let Request::Deploy(_) = run.order.request {
        // So that an operator can run compose by hand in the checkout.
        add_line(run, ".env", &format!("COMPOSE_PROJECT_NAME={}", run.project))?;
        let tool = run.tool()?;
        let (variables, _) = variables::read(&run.here, &run.name)?;
        run.here.resolve_checkout(&run.project, folder.clone(), tool, &variables)?;
        // What is kept there, passwords with it, is part of no image, whatever its Dockerfile copies. One that has a file of its own beside it
        // does not ask the other.
        add_line(run, ".dockerignore", compose::OURS)?;
        let dockerfiles = run.loaded()?.compose.services.iter().filter_map(|service| service.dockerfile.clone());
        for file in dockerfiles.map(|file| format!("{file}.dockerignore")).collect::<BTreeSet<_>>() {
            if run.here.world.read_within(&folder, &file, 1 << 20)?.is_some() {
                add_line(run, &file, compose::OURS)?;
            }
        }
    }
    // git does not, and the application must be found after a power failure, whichever of its deployments is in force then.
    run.here.world.sync_disk(&folder)?;
    let checks = run.loaded()?.routes.checks.clone();
    service::read(&run.here, &folder, &run.name, &checks)?;
    let found = run.here.engine().all_volumes()?;
    if let Request::Deploy(deploy) = &run.order.request {
        let master = deploy.master.to_string();
        others::check(run, &master, &found)?;
    }
    let sites = understand(run)?;
    let (volumes, held) = (run.loaded()?.compose.volumes.clone(), run.old_volumes());
    look_at_drivers(&run.here.settings.driver, &volumes, &held)?;
    for line in volumes::protection(&volumes) {
        info!("{}: {line}", run.name);
    }
    for volume in held.iter().filter(|held| !volumes.iter().any(|volume| volume.name == **held)) {
        warn!(
            "this version does not declare the volume {volume}, which the record names: it goes along this once, and is neither moved nor replicated any more"
        );
    }
    let data = run.loaded()?.compose.data_volumes();
    let plugin = run.here.plugin();
    let mut existing = BTreeSet::new();
    for volume in data.iter().chain(held.iter().filter(|held| !data.contains(held))) {
        if plugin.exists(volume)? {
            existing.insert(volume.clone());
        } else if found.iter().any(|found| *found.name == **volume) {
            // It says so for whatever goes wrong in looking; what is taken for missing would go in the undo.
            return Err(Fault::NotFoundByPlugin { volume: volume.clone() }.into());
        }
    }
    let ordinary = found.into_iter().filter(|volume| volume.project() == &*run.project).map(|volume| volume.name).collect();
    let mut checked = Checked { existing, ordinary: Some(ordinary), sites, ..Checked::default() };
    if run.old_role()? == Role::Master {
        checked.images = run_now(run)?;
    }
    if run.takes_over() {
        // Early, since it may fail; it is chosen anew where it is restored.
        run.choice()?.notes.iter().for_each(|note| info!("to be taken over: {note}"));
    }
    Ok(Output::Checked(checked))
}

/// The old version ran until it was stopped, and may have made volumes meanwhile: they are not this order's. A source has checked nothing.
pub fn look_again(run: &mut Run) -> Done {
    let Some(at) = run.steps().iter().position(|step| *step == Step::Check) else { return Ok(()) };
    let mut checked = run.checked()?;
    let before = checked.clone();
    let (data, held) = (run.loaded()?.compose.data_volumes(), run.old_volumes());
    for volume in data.iter().chain(&held) {
        if !checked.existing.contains(volume) && run.here.plugin().exists(volume)? {
            checked.existing.insert(volume.clone());
        }
    }
    let there = run.here.engine().volumes(&run.project)?;
    checked.ordinary = Some(there.into_iter().map(|volume| volume.name).collect());
    if checked != before {
        run.journal.keep_of(&run.here.world, at, Output::Checked(checked))?;
    }
    Ok(())
}

/// To a file of the checkout, which it may have or not.
fn add_line(run: &Run, file: &str, line: &str) -> Done {
    let (folder, world) = (run.folder(), &run.here.world);
    let begins_line = world.read_within(&folder, file, 1 << 20)?.is_some_and(|text| !text.is_empty() && !text.ends_with(b"\n"));
    let line = format!("{}{line}\n", if begins_line { "\n" } else { "" });
    Ok(world.write_file(&folder.join(file), line.as_bytes(), Write::Append, false)?)
}

/// KiB of a record. In a transaction Consul takes 512 of base64, and there is more in it than routes.
const MOST_ROUTES: usize = 300;

/// What the sites mean is what Caddy has understood: it reads them before anything is touched.
fn understand(run: &mut Run) -> Result<Option<Understood>, Error> {
    let routes = run.loaded()?.routes.clone();
    if routes.caddyfile.is_empty() || run.brings_nothing_new() {
        return Ok(None);
    }
    let Some(caddy) = run.here.caddy(run.here.settings.timeouts.proxy) else {
        info!("nobody vouches for what the routes mean: HANDLER_CADDY_ADMIN names no Caddy that has read them");
        return Ok(None);
    };
    let listed = run.here.settings.routes.upstreams.clone();
    let services = &run.loaded()?.compose.services;
    let mut sites = Vec::new();
    for site in &routes.sites {
        sites.push(routes::understood(&caddy.adapt(site)?, site, services, &listed)?);
    }
    let sites = Understood::new(&routes.caddyfile, sites);
    let size = (routes.caddyfile.len() + text_of(&run.name, &sites)?.len()) >> 10;
    if size > MOST_ROUTES {
        return Err(routes::Error::TooLong { size, most: MOST_ROUTES }.into());
    }
    // It reads more than it takes: a password that is no hash, a network that is none.
    let proxies = settings::Proxies::from_env().map_err(proxies::Error::from);
    match proxies.and_then(|proxies| proxies::apply::refusal(&run.here, &proxies, &run.name, &routes.caddyfile, &sites)) {
        Ok(None) => {}
        Ok(Some(says)) => return Err(routes::Error::NotTaken { says }.into()),
        Err(why @ proxies::Error::CheckFails { .. }) => return Err(routes::Error::NotTaken { says: why.to_string() }.into()),
        Err(why) => warn!("nobody can say before it is served whether Caddy takes it: {why}"),
    }
    Ok(Some(sites))
}

/// Whether each volume is taken for what it is.
fn look_at_drivers(driver: &str, volumes: &[compose_file::Volume], held: &[Volume]) -> Result<(), Fault> {
    for compose_file::Volume { name, driver: found, .. } in volumes.iter().filter(|volume| !volume.data) {
        let found = found.clone();
        // Deployed so, it would start empty, and a move would delete what it leaves behind.
        if held.contains(name) {
            return Err(Fault::AnotherDriver { volume: name.clone(), found, driver: driver.into() });
        }
        // The plugin's image may be called anything; these are the names that it goes by.
        if ["buttervolume", "btrfs"].iter().any(|word| found.to_lowercase().contains(word)) {
            return Err(Fault::DriverByAnotherName { volume: name.clone(), found, driver: driver.into() });
        }
    }
    Ok(())
}

impl Run {
    /// The services whose images come from elsewhere, and these images.
    pub fn pulled(&mut self) -> Result<(Vec<String>, Vec<String>), Error> {
        let services = self.loaded()?.compose.services.iter().filter(|service| !service.build);
        Ok(services.filter_map(|service| Some((service.name.clone(), service.image.clone()?))).unzip())
    }

    pub fn builds(&mut self) -> Result<bool, Error> {
        Ok(self.loaded()?.compose.services.iter().any(|service| service.build))
    }
}

/// Those that its containers have.
pub fn run_now(run: &Run) -> Result<Images, Error> {
    let named = run.here.engine().containers(&run.project)?.into_iter().filter(|container| !container.image_name.is_empty());
    Ok(named.map(|container| (container.image_name, container.image)).collect())
}

/// What these names of images stand for here.
fn named(run: &Run, names: &[String]) -> Result<Output, Error> {
    let mut images = BTreeMap::new();
    for name in names {
        images.extend(run.here.engine().image(name)?.map(|id| (name.clone(), id)));
    }
    Ok(Output::Images(images))
}

pub fn pull(run: &mut Run) -> Result<Output, Stop> {
    let (services, names) = run.pulled()?;
    if services.is_empty() {
        return Ok(Output::Nothing);
    }
    let checkout = run.loaded()?.checkout.clone();
    if let Err(why) = checkout.pull(&run.here.world, &services, &run.here.settings.timeouts) {
        let engine = run.here.engine();
        if !names.iter().all(|name| matches!(engine.image(name), Ok(Some(_)))) {
            return Err(why.into());
        }
        warn!("pulling failed, going on with the images that are here: {why}");
    }
    Ok(named(run, &names)?)
}

pub fn build(run: &mut Run) -> Result<Output, Stop> {
    if !run.builds()? {
        return Ok(Output::Nothing);
    }
    let checkout = run.loaded()?.checkout.clone();
    checkout.build(&run.here.world, &run.here.settings.timeouts)?;
    // Without a name of its own an image has one that only this project has.
    let built = run.loaded()?.compose.services.iter().filter(|service| service.build);
    let names: Vec<String> = built.filter_map(|service| service.image.clone()).collect();
    Ok(named(run, &names)?)
}

/// The new version gets what was pulled and built for it: a name may stand for something else by now, where another application has it, too.
pub fn tag(run: &Run) -> Result<(), Error> {
    let engine = run.here.engine();
    for (name, id) in run.images() {
        if engine.image(&name)?.as_ref() != Some(&id) {
            engine.tag(&id, &name)?;
        }
    }
    Ok(())
}

/// Gives the names of images back to those that the old containers ran; the names whose images somebody has removed since.
pub fn retag(run: &Run) -> Result<Vec<String>, Error> {
    let (engine, mut gone) = (run.here.engine(), Vec::new());
    for (name, id) in run.old_images()?.iter().filter(|(name, id)| name != id) {
        if !give(&engine, id, name)? {
            gone.push(name.clone());
        }
    }
    Ok(gone)
}

/// The same where nothing is started: but for a name that somebody else has given away since.
pub fn give_back(run: &mut Run, _: Option<Output>) -> Done {
    let (engine, given) = (run.here.engine(), run.images());
    for (name, id) in run.checked()?.images.iter().filter(|(name, id)| name != id) {
        if let Some(given) = given.get(name)
            && engine.image(name)?.as_ref() != Some(given)
        {
            continue;
        }
        give(&engine, id, name)?;
    }
    Ok(())
}

/// Gives the image its name back; whether it is there: somebody may have removed it. A digest is no name to give away.
fn give(engine: &Engine, id: &str, name: &str) -> Result<bool, Error> {
    let is_there = engine.image(id)?.is_some();
    if is_there && !name.contains('@') {
        engine.tag(id, name)?;
    }
    Ok(is_there)
}
