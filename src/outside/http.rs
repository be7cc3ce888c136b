//! HTTP to the services of this node, over TCP or a unix socket.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::config::Config;
use ureq::unversioned::resolver::{ArrayVec, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Agent, Error};

use super::doors::{Answer, Net, Request, Service, Unanswered};
use crate::settings::{Address, Settings, Tls};

/// One of the host's addresses may not answer at all.
const CONNECT: Duration = Duration::from_secs(5);
/// Of an answer.
const MAX_ANSWER: u64 = 256 << 20;
const PLUGINS: &str = "/run/docker/plugins";

/// This node's services as they are.
pub struct RealNet {
    consul: Agent,
    address: Address,
    plugin: Option<PathBuf>,
    engine: PathBuf,
    caddy: Option<PathBuf>,
    /// Made when they are first asked.
    sockets: RefCell<BTreeMap<PathBuf, Agent>>,
}

impl RealNet {
    pub fn new(settings: &Settings) -> RealNet {
        let address = settings.agent.clone();
        let consul = agent(address.tls.clone(), address.socket.clone());
        RealNet {
            consul,
            address,
            plugin: settings.plugin_socket.clone(),
            engine: settings.engine_socket.clone(),
            caddy: settings.routes.admin.clone(),
            sockets: RefCell::default(),
        }
    }

    fn plugin_socket(&self) -> Result<PathBuf, Unanswered> {
        match &self.plugin {
            Some(socket) => there(socket.clone()),
            None => find_socket(Path::new(PLUGINS)).ok_or_else(|| Unanswered::NoSocket { place: format!("btrfs.sock under {PLUGINS}") }),
        }
    }

    /// The base of the service's URLs, and who carries requests to it.
    fn way(&self, to: Service) -> Result<(&str, Agent), Unanswered> {
        let socket = match to {
            Service::Consul => return Ok((&self.address.base, self.consul.clone())),
            Service::Plugin => self.plugin_socket()?,
            Service::Engine => there(self.engine.clone())?,
            Service::Caddy => there(self.caddy.clone().unwrap_or_default())?,
        };
        let base = match to {
            Service::Plugin => "http://plugin",
            Service::Caddy => "http://caddy",
            _ => "http://engine",
        };
        Ok((base, self.sockets.borrow_mut().entry(socket).or_insert_with_key(|socket| agent(None, Some(socket.clone()))).clone()))
    }
}

impl Net for RealNet {
    fn send(&self, to: Service, request: Request) -> Result<Answer, Unanswered> {
        let (base, agent) = self.way(to)?;
        let failed = |why: &dyn std::fmt::Display| Unanswered::Failed { place: base.into(), why: why.to_string() };
        let mut built = ureq::http::Request::builder().method(request.method).uri(format!("{base}{}", request.path));
        if let (Service::Consul, Some(token)) = (to, &self.address.token) {
            built = built.header("X-Consul-Token", token);
        }
        match to {
            Service::Caddy if request.path == "/adapt" => built = built.header("Content-Type", "text/caddyfile"),
            Service::Engine | Service::Caddy => built = built.header("Content-Type", "application/json"),
            Service::Consul | Service::Plugin => {}
        }
        let sent = if request.method == "GET" {
            let request_ = built.body(()).map_err(|error| failed(&error))?;
            agent.run(agent.configure_request(request_).timeout_global(Some(request.timeout)).build())
        } else {
            let request_ = built.body(request.body.to_vec()).map_err(|error| failed(&error))?;
            agent.run(agent.configure_request(request_).timeout_global(Some(request.timeout)).build())
        };
        let mut response = sent.map_err(|error| failed(&error))?;
        let index = response.headers().get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok());
        // A body that ends early is an error.
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|error| failed(&error))?;
        Ok(Answer { status: response.status().as_u16(), index, body })
    }
}

fn there(socket: PathBuf) -> Result<PathBuf, Unanswered> {
    match socket.exists() {
        true => Ok(socket),
        false => Err(Unanswered::NoSocket { place: socket.display().to_string() }),
    }
}

/// `btrfs.sock` in this folder or one folder down.
fn find_socket(folder: &Path) -> Option<PathBuf> {
    let direct = folder.join("btrfs.sock");
    if direct.exists() {
        return Some(direct);
    }
    let mut below: Vec<PathBuf> =
        fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path().join("btrfs.sock"))).filter(|path| path.exists()).collect();
    below.sort();
    below.into_iter().next()
}

/// For plain requests: every status is an answer, nothing is redirected or sent through a proxy.
fn agent(tls: Option<Tls>, socket: Option<PathBuf>) -> Agent {
    let config = Config::builder().proxy(None).http_status_as_error(false).max_redirects(0).user_agent("handler");
    // The library clears 256 KiB for each connection; most answers have less than one.
    let config = config.input_buffer_size(16 << 10).output_buffer_size(16 << 10);
    let encrypted = tls.is_some();
    let config = match tls {
        #[cfg(feature = "tls")]
        Some(tls) => config.tls_config(tls),
        _ => config,
    };
    match (encrypted, socket) {
        // The library's own chain of connectors knows TLS and proxies, which only that case needs.
        (true, None) => config.build().new_agent(),
        (_, socket) => Agent::with_parts(config.build(), Plain(socket), NoResolver),
    }
}

/// The connector looks the host up itself.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &ureq::http::Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(ArrayVec::from_fn(|_| ([127, 0, 0, 1], 0).into()))
    }
}

/// TCP, or this unix socket.
#[derive(Debug)]
struct Plain(Option<PathBuf>);

impl Connector for Plain {
    type Out = PlainTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<PlainTransport>, Error> {
        let stream = match &self.0 {
            Some(path) => Stream::Unix(UnixStream::connect(path)?),
            None => Stream::Tcp(connect(details)?),
        };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(PlainTransport { stream, buffers, unsent: Vec::new() }))
    }
}

/// The first of the host's addresses that answers.
fn connect(details: &ConnectionDetails) -> Result<TcpStream, Error> {
    let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut failed = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in (host, details.uri.port_u16().unwrap_or(80)).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, details.timeout.not_zero().map_or(CONNECT, |timeout| (*timeout).min(CONNECT))) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed.into())
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_timeouts(&self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
            Stream::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
        }
    }

    fn set_nonblocking(&self, on: bool) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(on),
            Stream::Unix(stream) => stream.set_nonblocking(on),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }
}

#[derive(Debug)]
struct PlainTransport {
    stream: Stream,
    buffers: LazyBuffers,
    /// What is still to be sent: a request's head goes out together with its body.
    unsent: Vec<u8>,
}

/// A timeout of the socket shows as `WouldBlock`.
fn timed_out(error: std::io::Error, timeout: &NextTimeout) -> Error {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

impl Transport for PlainTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        self.unsent.extend_from_slice(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.set_timeouts(timeout.not_zero().map(|t| *t))?;
        let unsent = std::mem::take(&mut self.unsent);
        self.stream.write_all(&unsent).map_err(|error| timed_out(error, &timeout))?;
        let input = self.buffers.input_append_buf();
        let count = self.stream.read(input).map_err(|error| timed_out(error, &timeout))?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    /// Still quiet: neither closed nor with an answer that nobody has asked for.
    fn is_open(&mut self) -> bool {
        self.stream.set_nonblocking(true).is_ok()
            && matches!(self.stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            && self.stream.set_nonblocking(false).is_ok()
    }
}
