//! A client that writes all the time, and remembers what was acknowledged: each write has a number, and is answered when it is on the disk.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::client::ask;
use crate::harness::{App, Lab, NODES, Node, name, secs, socket, wait_until};

const FILE: &str = "written";

struct Acknowledged {
    number: u64,
    /// Of the application that answered.
    version: String,
    /// While nobody was at work on the application.
    at_rest: bool,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    at_rest: AtomicBool,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

pub struct Writer {
    shared: Arc<Shared>,
    /// What went with versions that were up and undone.
    undone: BTreeSet<u64>,
}

impl Writer {
    /// It asks the nodes in turn, and stays with the one that answers.
    pub fn start(app: &App) -> Writer {
        let shared = Arc::new(Shared::default());
        let (mine, addresses) = (shared.clone(), NODES.map(|node| socket(node, app.port)));
        thread::spawn(move || {
            let mut at = 0;
            for number in 1.. {
                let before = mine.at_rest.load(Ordering::SeqCst);
                let text = number.to_string();
                let request = format!("PUT /{FILE} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                match ask(addresses[at], &request) {
                    Some(version) => {
                        let at_rest = before && mine.at_rest.load(Ordering::SeqCst);
                        mine.acknowledged.lock().unwrap().push(Acknowledged { number, version: version.trim().into(), at_rest });
                    }
                    None => at = (at + 1) % addresses.len(),
                }
                if mine.end.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Writer { shared, undone: BTreeSet::new() }
    }

    /// For a while nobody is at work on the application: what is acknowledged now nothing may undo.
    pub fn rest(&self) {
        self.shared.at_rest.store(true, Ordering::SeqCst);
        let count = || self.shared.acknowledged.lock().unwrap().iter().filter(|it| it.at_rest).count();
        let before = count();
        wait_until("writes at rest", secs(20), || if count() > before + 5 { Ok(()) } else { Err("none".into()) });
        self.shared.at_rest.store(false, Ordering::SeqCst);
    }

    /// Each acknowledged write is in the live data. What only `undone` has acknowledged, a version that was up before its commit and was
    /// undone, is at least in a snapshot.
    pub fn expect_all(&mut self, lab: &Lab, app: &App, master: u8, undone: Option<&str>) {
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        let live = numbers(&app.read(master, FILE).unwrap_or_default());
        let is_new = |it: &&Acknowledged| !live.contains(&it.number) && !self.undone.contains(&it.number);
        let missing: Vec<&Acknowledged> = acknowledged.iter().filter(is_new).collect();
        let lost = missing.iter().filter(|it| it.at_rest || Some(&*it.version) != undone);
        let lost: Vec<_> = lost.map(|it| (it.number, &*it.version)).collect();
        assert!(lost.is_empty(), "acknowledged, and not in the data on {}: {lost:?}", name(master));
        let mut count = format!("all of {} acknowledged writes are there", acknowledged.len());
        self.undone.extend(missing.iter().map(|it| it.number));
        if !self.undone.is_empty() {
            let kept = format!("cat /var/lib/buttervolume/snapshots/{}_*/{FILE} 2>/dev/null || true", app.project());
            let kept: BTreeSet<u64> = NODES.iter().flat_map(|node| numbers(&Node(*node).sh(&kept))).collect();
            let gone: Vec<_> = self.undone.difference(&kept).collect();
            assert!(gone.is_empty(), "acknowledged by versions that were undone, and in no snapshot: {gone:?}");
            count += &format!(", but {} that versions which were undone had acknowledged: those are in snapshots", self.undone.len());
        }
        lab.note(&count);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
    }
}

fn numbers(text: &str) -> BTreeSet<u64> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
