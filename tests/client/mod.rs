//! A client that asks applications every 50 ms, without waiting for the answers, and keeps who answered when.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// The body of an answer with status 200.
pub fn ask(address: SocketAddr, request: &str) -> Option<String> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200").then(|| body.to_string())
}

pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    ask(address, &format!("GET {path} HTTP/1.0\r\n\r\n"))
}

pub struct Client {
    end: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Instant, SocketAddr)>>>,
    start: Instant,
}

/// What a client saw.
#[derive(Debug)]
pub struct Seen {
    /// The longest time without any answer.
    pub outage: Duration,
    /// Whether two of them answered at the same time.
    #[allow(dead_code, reason = "whoever asks only one address does not need it")]
    pub twice: bool,
}

impl Client {
    pub fn start(addresses: impl IntoIterator<Item = SocketAddr>) -> Client {
        let client = Client { end: Arc::default(), seen: Arc::default(), start: Instant::now() };
        for address in addresses {
            let (end, seen) = (client.end.clone(), client.seen.clone());
            thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    // Not one after the other: one that hangs until its time is up would hide the answers to those behind it.
                    let seen = seen.clone();
                    thread::spawn(move || {
                        if get(address, "/version").is_some()
                            && let Ok(mut seen) = seen.lock()
                        {
                            seen.push((Instant::now(), address));
                        }
                    });
                    sleep(Duration::from_millis(50));
                }
            });
        }
        client
    }

    /// What it has seen; dropped with that, it ends.
    pub fn stop(self) -> Seen {
        let mut seen = self.seen.lock().unwrap().clone();
        seen.sort();
        let mut last = self.start;
        let mut outage = Duration::ZERO;
        for (at, _) in &seen {
            outage = outage.max(*at - last);
            last = *at;
        }
        outage = outage.max(last.elapsed());
        // An answer of another between two answers of one: both served.
        let twice = seen.windows(3).any(|three| three[0].1 == three[2].1 && three[0].1 != three[1].1);
        Seen { outage, twice }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}
