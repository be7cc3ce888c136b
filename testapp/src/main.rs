//! A small stateful web server: keeps what it is sent in its data folder, shows its version, and fails when it is told to.
//!
//! ```text
//! GET  /version          $VERSION
//! GET  /request          the header that the request came with
//! GET  /health           200, or 503 while it is unhealthy
//! POST /unhealthy        from now on unhealthy
//! POST /exit             ends with status 3
//! POST /NAME             keeps the body as NAME; the answer comes when it is on the disk
//! PUT  /NAME             adds a line to NAME; the answer, $VERSION, comes when it is on the disk
//! GET  /NAME             what was kept
//! ```
//!
//! `testapp mariadb` and `testapp wordpress` (PORT=80, DATA=/var/www/html) stand in for these; see `press.rs`.
//! `testapp health` asks the server for its health: a HEALTHCHECK that needs no shell.
//! Environment: VERSION; PORT (8080); DATA (/data); UNHEALTHY=1: unhealthy from the start; EXIT_AFTER: ends after so many seconds.

mod press;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

static UNHEALTHY: AtomicBool = AtomicBool::new(false);

const MAX_BODY: u64 = 1 << 20;

fn main() -> ExitCode {
    let result = match env::args().nth(1).as_deref() {
        None => serve(),
        Some("wordpress") => serve(),
        Some("mariadb") => press::mariadb(),
        Some("health") => ask_health(),
        Some(other) => Err(io::Error::other(format!("unknown argument {other:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testapp: {error}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_string())
}

fn serve() -> io::Result<()> {
    end_on_sigterm();
    let version = setting("VERSION", "0");
    let port = setting("PORT", "8080");
    UNHEALTHY.store(setting("UNHEALTHY", "0") == "1", Ordering::Relaxed);
    if let Ok(seconds) = setting("EXIT_AFTER", "").parse() {
        thread::spawn(move || {
            thread::sleep(Duration::from_secs_f32(seconds));
            exit(&format!("EXIT_AFTER={seconds}"));
        });
    }
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("testapp {version} on port {port}");
    for stream in listener.incoming() {
        let version = version.clone();
        thread::spawn(move || {
            if let Err(error) = stream.and_then(|stream| answer(&stream, &version)) {
                eprintln!("testapp: {error}");
            }
        });
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)] // that the whole process ends is what was asked for
fn exit(why: &str) -> ! {
    eprintln!("testapp: told to end: {why}");
    std::process::exit(3)
}

/// The first process of a container gets no default action for signals: without this, each stop would take ten seconds.
fn end_on_sigterm() {
    const SIGTERM: i32 = 15;
    unsafe extern "C" {
        fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
        fn _exit(status: i32) -> !;
    }
    extern "C" fn end(_: i32) {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { _exit(0) }
    }
    // SAFETY: the handler does nothing but _exit.
    unsafe { signal(SIGTERM, end) };
}

fn answer(stream: &TcpStream, version: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.by_ref().take(4096).read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (mut length, mut headers) = (0, String::new());
    loop {
        let mut header = String::new();
        reader.by_ref().take(4096).read_line(&mut header)?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        headers.push_str(&header);
    }
    let mut body = Vec::new();
    reader.take(length.min(MAX_BODY)).read_to_end(&mut body)?;

    let (status, text) = match (method, path) {
        ("GET", "/request") => ("200 OK", headers.into_bytes()),
        _ => respond(method, path, &body, version),
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len())?;
    stream.write_all(&text)?;
    if (method, path) == ("POST", "/exit") {
        exit("POST /exit");
    }
    Ok(())
}

fn respond(method: &str, path: &str, body: &[u8], version: &str) -> (&'static str, Vec<u8>) {
    const OK: &str = "200 OK";
    match (method, path) {
        ("GET", "/") if env::args().nth(1).is_some() => match press::page() {
            Ok(text) => (OK, text.into()),
            Err(text) => ("500 Internal Server Error", text.into()),
        },
        ("GET", "/" | "/version") => (OK, format!("{version}\n").into()),
        ("GET", "/health") if UNHEALTHY.load(Ordering::Relaxed) => ("503 Service Unavailable", b"unhealthy\n".into()),
        ("GET", "/health") => (OK, b"healthy\n".into()),
        ("POST", "/unhealthy") => {
            UNHEALTHY.store(true, Ordering::Relaxed);
            (OK, b"unhealthy\n".into())
        }
        ("POST", "/exit") => (OK, b"ending\n".into()),
        _ => {
            let name = path.trim_start_matches('/');
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if name.is_empty() || !name.chars().all(plain) {
                return ("400 Bad Request", b"a name is letters, digits and -\n".into());
            }
            let file = PathBuf::from(setting("DATA", "/data")).join(name);
            let done = match method {
                "GET" => fs::read(&file),
                "POST" => keep(&file, body).map(|()| Vec::new()),
                "PUT" => add(&file, body).map(|()| format!("{version}\n").into()),
                _ => return ("405 Method Not Allowed", Vec::new()),
            };
            match done {
                Ok(text) => (OK, text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => ("404 Not Found", Vec::new()),
                Err(error) => ("500 Internal Server Error", format!("{error}\n").into()),
            }
        }
    }
}

/// Beside, synced, renamed: a reader sees the old or the new content.
fn keep(file: &PathBuf, body: &[u8]) -> io::Result<()> {
    let beside = file.with_extension("new");
    let mut new = File::create(&beside)?;
    new.write_all(body)?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

/// On a line of its own, whatever a writer before it that was killed, or had no room, has left.
fn add(file: &PathBuf, body: &[u8]) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(file)?;
    file.write_all(&[b"\n", body, b"\n"].concat())?;
    file.sync_all()
}

fn ask_health() -> io::Result<()> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{}", setting("PORT", "8080")))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let answer = text.lines().next_back().unwrap_or("no answer");
    println!("{answer}");
    if text.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(io::Error::other(format!("not healthy: {answer}")))
}
