//! One node: a first deploy, the next one, and all that can go wrong with either.

use serde_json::json;

use crate::world::outside::World;
use crate::world::{Act, Cluster, Run, event, id};
use crate::{
    APP, DATA, PROJECT, URL, all_well, assert_failed, assert_order, assert_serves, compose, deploy, deployed, finished, push, push_files,
    shop,
};

fn redeploy(w: &World) -> Run {
    w.deliver("node1", &[deploy("second", "node1", None)])
}

fn update(w: &World) -> Run {
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "update": true});
    w.deliver("node1", &[event("second", "deploy", &payload)])
}

#[test]
fn a_first_deploy() {
    let w = shop(&["node1"]);
    let commit = w.lock().repos[URL].branches["master"].clone();
    w.deliver("node1", &[deploy("first", "node1", None)]).exits(0);
    assert_serves(&w, "node1", &commit);
    let log = w.take_log();
    assert_order(&log, &["order/", "git clone", "rev-parse HEAD", "pull cache", "build", "up -d", "cas app/"]);
    let record = w.kv(&format!("app/{APP}")).unwrap();
    for (member, value) in [
        ("repo_url", json!(URL)),
        ("branch", json!("master")),
        ("deploy_id", json!(id("first"))),
        ("previous_deploy_id", json!(null)),
        ("ip", json!("10.0.0.1")),
        ("master", json!("node1")),
        ("slave", json!(null)),
        ("ct", json!({"web": format!("{PROJECT}-web-1"), "cache": format!("{PROJECT}-cache-1")})),
        ("volumes", json!([DATA])),
    ] {
        assert_eq!(record[member], value, "{member} of {record:#}");
    }
    let order = finished(&w, "first");
    assert_eq!((&order["state"], &order["commit"]), (&json!("done"), &json!(commit)));
    assert_eq!(w.keys(""), [format!("app/{APP}"), "claims".to_owned(), format!("history/{APP}/{}", id("first")), "node/node1".to_owned()]);
    let schedules: Vec<_> = w.lock().nodes["node1"].plugin.schedules.clone().into_iter().collect();
    let due = |action: &str, timer: &str| ((DATA.to_owned(), action.to_owned()), timer.to_owned());
    assert_eq!(schedules, [due("purge:1h:1d:1w:4w:1y", "1440"), due("snapshot", "60")]);
    assert_eq!(w.lock().nodes["node1"].services.keys().collect::<Vec<_>>(), [APP]);
    let env = std::fs::read_to_string(w.deploy_dir("node1").join(format!("{APP}-{}/.env", id("first")))).unwrap();
    assert!(env.contains(&format!("COMPOSE_PROJECT_NAME={PROJECT}\n")), "{env}");
}

#[test]
fn the_next_deploy_prepares_before_it_stops() {
    let w = deployed(&["node1"], "node1", None);
    let second = push(&w, "x-standin: {writes: ', upgraded'}");
    redeploy(&w).exits(0);
    assert_serves(&w, "node1", &second);
    let log = w.take_log();
    assert_order(&log, &["git clone", "pull cache", "build", "maintenance/", " stop", "plugin Snapshot ", "up -d", "app/"]);
    assert_eq!(w.volume("node1", DATA).unwrap(), "orders of monday|, upgraded");
    let record = w.kv(&format!("app/{APP}")).unwrap();
    assert_eq!((&record["deploy_id"], &record["previous_deploy_id"]), (&json!(id("second")), &json!(id("first"))));
    let checkouts: Vec<_> = w.state().lines().filter(|l| l.contains("/deploy/")).map(str::to_owned).collect();
    assert_eq!(checkouts, [format!("node1 /deploy/{APP}-{} {second}", id("second"))]);
    assert_eq!(w.keys("maintenance/"), [""; 0]);
}

#[test]
fn compose_1_is_refused() {
    let w = shop(&["node1"]);
    let before = w.state();
    w.lock().engine("node1").compose = "1.29.2".to_owned();
    w.deliver("node1", &[deploy("first", "node1", None)]).exits(1).says("Compose 2.15 or later is needed");
    assert_eq!(w.state(), before);
}

#[test]
fn without_data_no_plugin_is_needed() {
    let w = World::new(&["node1"]);
    w.lock().nodes.get_mut("node1").unwrap().has_plugin = false;
    w.commit(URL, "master", &[("compose.yaml", "services: {web: {build: .}}")]);
    w.deliver("node1", &[deploy("first", "node1", None)]).exits(0);
    w.commit(URL, "master", &[("compose.yaml", "services: {web: {build: .}, more: {build: .}}")]);
    redeploy(&w).exits(0);
    assert_eq!(w.serving(PROJECT).len(), 2);
}

#[test]
fn an_update_script_runs_between_stop_and_up() {
    let w = deployed(&["node1"], "node1", None);
    push_files(&w, "", &[("update.sh", "echo upgrading\nwrite data , v2")]);
    update(&w).exits(0);
    let log = w.take_log();
    let script = format!("sh update.sh -r {URL} -b master");
    assert_order(&log, &[" stop", "plugin Snapshot ", &script, "up -d"]);
    push_files(&w, "", &[("update.sh", "exit 1")]);
    w.deliver("node1", &[deploy("third", "node1", None)]).exits(0);
    assert!(!w.take_log().iter().any(|l| l.contains("update.sh")), "it was not asked for");
}

/// Breaks the second deploy; then the first serves, with its data, as if nothing had been.
#[track_caller]
fn leaves_the_old_one(broken: impl FnOnce(&World), run: impl FnOnce(&World) -> Run, reason: &[&str]) -> World {
    let w = deployed(&["node1"], "node1", None);
    let tags = w.lock().engine("node1").tags.clone();
    let before = w.state();
    broken(&w);
    run(&w).exits(1);
    assert_eq!(w.state(), before);
    assert_eq!(w.lock().engine("node1").tags, tags, "the old images have their names again");
    assert_failed(&w, "second", reason);
    w.settle();
    assert_eq!(w.state(), before);
    w
}

#[test]
fn a_clone_that_fails_stops_nothing() {
    let break_it = |w: &World| w.on("", "git clone", Act::Fail("fatal: could not read from remote".to_owned()));
    let w = leaves_the_old_one(break_it, redeploy, &["git", "could not read from remote"]);
    assert!(!w.take_log().iter().any(|l| l.contains(" stop") || l.contains("maintenance/")));
}

#[test]
fn a_branch_that_is_gone_stops_nothing() {
    let break_it = |w: &World| w.lock().repos.get_mut(URL).unwrap().branches.clear();
    leaves_the_old_one(break_it, redeploy, &["Remote branch master not found"]);
}

#[test]
fn a_clone_that_hangs_is_ended() {
    let break_it = |w: &World| w.on("", "git clone", Act::Hang);
    let run = |w: &World| {
        let run = w.handler("node1", &[]).env("HANDLER_TIMEOUT_GIT", "1");
        run.stdin(&json!([deploy("second", "node1", None)]).to_string()).run()
    };
    leaves_the_old_one(break_it, run, &["git", "1 s"]);
}

#[test]
fn a_missing_compose_file_stops_nothing() {
    let break_it = |w: &World| drop(w.commit(URL, "master", &[("README", "nothing here")]));
    leaves_the_old_one(break_it, redeploy, &["docker-compose.yml"]);
}

#[test]
fn a_bad_compose_file_stops_nothing() {
    let break_it = |w: &World| drop(w.commit(URL, "master", &[("docker-compose.yml", "services: [")]));
    leaves_the_old_one(break_it, redeploy, &["docker-compose.yml"]);
}

#[test]
fn an_endless_alias_stops_nothing() {
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for i in 1..30 {
        bomb += &format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1);
    }
    let break_it = |w: &World| drop(w.commit(URL, "master", &[("docker-compose.yml", &bomb)]));
    leaves_the_old_one(break_it, redeploy, &["docker-compose.yml"]);
}

#[test]
fn a_pull_may_fail_when_the_images_are_here() {
    let w = deployed(&["node1"], "node1", None);
    let second = push(&w, "");
    w.on("node1", "pull", Act::Fail("registry: no route to host".to_owned()));
    redeploy(&w).exits(0).says("no route to host");
    assert_serves(&w, "node1", &second);
}

#[test]
fn a_pull_that_fails_without_the_image_stops_nothing() {
    let other = compose("").replace("cache:1", "cache:2");
    let break_it = |w: &World| drop(w.commit(URL, "master", &[("docker-compose.yml", &other)]));
    leaves_the_old_one(break_it, redeploy, &["pull", "manifest for cache:2 not found"]);
}

#[test]
fn a_build_that_fails_stops_nothing() {
    let break_it = |w: &World| drop(push(w, "x-standin: {build: fails}"));
    let w = leaves_the_old_one(break_it, redeploy, &["build", "exit code: 2"]);
    assert!(!w.take_log().iter().any(|l| l.contains(" stop") || l.contains("maintenance/")));
}

#[test]
fn an_update_script_that_fails_is_undone_with_what_it_wrote() {
    let break_it = |w: &World| drop(push_files(w, "", &[("update.sh", "write data HALF\necho no such table\nexit 4")]));
    leaves_the_old_one(break_it, update, &["update.sh", "no such table"]);
}

#[test]
fn an_up_that_fails_is_undone() {
    let break_it = |w: &World| drop(push(w, "x-standin: {start: refused}"));
    leaves_the_old_one(break_it, redeploy, &["up", "port is already allocated"]);
}

#[test]
fn a_version_that_is_unhealthy_is_undone_with_what_it_wrote() {
    let break_it = |w: &World| drop(push(w, "x-standin: {start: unhealthy, writes: WRONG}"));
    leaves_the_old_one(break_it, redeploy, &["web", "unhealthy"]);
}

#[test]
fn a_version_that_exits_is_undone() {
    let break_it = |w: &World| drop(push(w, "x-standin: {start: exits, writes: WRONG}"));
    leaves_the_old_one(break_it, redeploy, &["web", "3"]);
}

#[test]
fn a_version_that_restarts_is_undone() {
    let break_it = |w: &World| drop(push(w, "x-standin: {start: restarts, writes: WRONG}"));
    leaves_the_old_one(break_it, redeploy, &["web", "restart"]);
}

#[test]
fn a_version_that_is_slow_is_waited_for() {
    let w = deployed(&["node1"], "node1", None);
    let second = push(&w, "x-standin: {start: slow}");
    redeploy(&w).exits(0);
    assert_serves(&w, "node1", &second);
}

/// Old knowledge is acted upon no more: what runs is left alone, and the order fails.
#[test]
fn a_record_changed_by_another_is_not_overwritten() {
    let w = deployed(&["node1"], "node1", None);
    push(&w, "");
    let key = format!("app/{APP}");
    let change = move |s: &mut crate::world::State| {
        let text = s.store.text(&key).unwrap().replacen('{', r#"{"by_hand": 1, "#, 1);
        s.store.set(&key, text.as_bytes());
    };
    w.on("node1", "up -d", Act::First(Box::new(change)));
    redeploy(&w).exits(1).says("was changed by somebody else");
    assert_eq!(finished(&w, "second")["state"], "failed");
    assert_eq!(w.keys("order/"), [""; 0]);
    assert_eq!(w.kv(&format!("app/{APP}")).unwrap()["by_hand"], 1);
    assert!(w.volume("node1", DATA).unwrap().starts_with("orders of monday"));
    assert_eq!(w.serving(PROJECT).len(), 2, "nothing was deployed since: the old version is back");
    // The next order finds its way from there.
    let third = push(&w, "");
    all_well(&w.deliver_all(&[deploy("third", "node1", None)]));
    assert_serves(&w, "node1", &third);
}

#[test]
fn a_first_deploy_that_fails_leaves_nothing() {
    for (more, reason) in [("start: unhealthy", "unhealthy"), ("start: refused", "port"), ("build: fails", "build")] {
        let w = World::new(&["node1"]);
        w.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
        push(&w, &format!("x-standin: {{{more}}}"));
        let before = w.state();
        w.deliver("node1", &[deploy("first", "node1", None)]).exits(1).says(reason);
        assert_eq!(w.state(), before);
        assert_failed(&w, "first", &[reason]);
    }
}

#[test]
fn two_names_for_one_project_are_refused() {
    let w = shop(&["node1"]);
    w.commit(URL, "feature-x", &[("docker-compose.yml", &compose(""))]);
    w.commit(URL, "featurex", &[("docker-compose.yml", &compose(""))]);
    let one = |id: &str, branch: &str| event(id, "deploy", &json!({"repo": URL, "branch": branch, "master": "node1"}));
    w.deliver("node1", &[one("a", "feature-x")]).exits(0);
    let before = w.state();
    w.deliver("node1", &[one("b", "featurex")]).exits(1).says("shopfeaturexe4371");
    assert_eq!(w.state(), before);
}
