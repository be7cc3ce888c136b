//! Random `HAPROXY` of an application beside a neighbour's, with a real haproxy where it is installed: what is let through haproxy takes, and the
//! neighbour's part of its file stays as it was. `RUNS=` how many, `FROM=` the first seed: one that breaks this is printed.

use serde_json::{Value, json};

use super::haproxy::written;
use super::view::tests::{app, view};
use crate::routes::read::tests::{services, set};
use crate::routes::{self, real};
use crate::settings::Version;

const PEERS: &str = "{git: {frontend: {mode: tcp, bind: ['*:2222']}, backends: [{name: git, port: 22, peer_port: 2222}]}, \
    http-in: {backends: [{name: n, port: 80, peer_port: 80, use_backend_option: 'if { hdr(host) -i n.example.com }'}]}}";
const WORDS: [&str; 58] = [
    "option",
    "tcplog",
    "httplog",
    "dontlognull",
    "timeout",
    "client",
    "server",
    "connect",
    "tunnel",
    "10s",
    "1d",
    "0",
    "99999999d",
    "30ms",
    "maxconn",
    "20",
    "000001",
    "999999",
    "tcp-request",
    "inspect-delay",
    "content",
    "accept",
    "if",
    "{",
    "}",
    "req_ssl_hello_type",
    "1",
    "tcp-check",
    "smtpchk",
    "HELO",
    "EHLO",
    "mail.example.com",
    "_",
    "a.-",
    "mysql-check",
    "pgsql-check",
    "user",
    "httpchk",
    "GET",
    "HEAD",
    "/",
    "/health?x=1&y",
    "balance",
    "roundrobin",
    "source",
    "send-proxy",
    "send-proxy-v2",
    "check",
    "inter",
    "fall",
    "rise",
    "hdr(host)",
    "-i",
    "n.example.com",
    "a.example.com",
    "req.ssl_sni",
    "\"",
    "#",
];

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// One of these, of which a word may be another one.
    fn line(&mut self, known: &[&str]) -> String {
        let line = self.pick(known);
        let value = |random: &mut Random, word: &str| match word {
            "TIME" => random.pick(&["1", "10s", "2147483647ms", "24d", "1us", "5000us", "1m", "0s"]),
            "COUNT" => random.pick(&["1", "3", "20", "65536", "999999"]),
            "NAME" => random.pick(&["a.example.com", "b.example.com", "n.example.com", "mail", "a_b-c.d", "."]),
            "PATH" => random.pick(&["/", "/health", "/a?b=c&d=e", "/~x", "/-"]),
            _ => "",
        };
        let mut words: Vec<String> = Vec::new();
        for word in line.split(' ') {
            let other = if self.chance(4) { self.pick(&WORDS) } else { value(self, word) };
            words.push(if other.is_empty() { word } else { other }.to_string());
        }
        while self.chance(5) {
            words.insert(self.below(words.len() + 1), self.pick(&WORDS).to_string());
        }
        words.join(" ")
    }

    fn lines(&mut self, known: &[&str]) -> Value {
        (0..self.below(4)).map(|_| self.line(known)).collect()
    }

    fn port(&mut self) -> Value {
        match self.below(12) {
            0 => self.pick(&["80", "0", "65536", "2222", "a", "", "1180", "1443", "22 "]).into(),
            1 => json!([80, 443, 0, 65535, 70000, -1][self.below(6)]),
            _ => json!([22, 25, 80, 3306, 5432, 8080][self.below(6)]),
        }
    }

    fn configuration(&mut self) -> (String, Value) {
        use crate::routes::words::Place;
        let name =
            self.pick(&["http-in", "https-in", "ssh", "smtp", "db", "db", "git", "a:b", "http-n.example.com", "peer-node2", "defaults"]);
        let shared = match name {
            "http-in" => Some(("http", 80)),
            "https-in" => Some(("tcp", 443)),
            _ => None,
        };
        let bind = 2200 + self.below(30);
        let mut own = json!({"mode": if self.chance(70) { "tcp" } else { "http" }, "bind": [format!("*:{bind}")]});
        if self.chance(50) {
            own["options"] = self.lines(Place::Frontend.known());
        }
        if self.chance(5) {
            own["bind"] =
                json!([self.pick(&["*:2222", "*:80", "*:2300-2309", "127.0.0.1:2300", ":2301", "*:0", "*:2302 ssl", "[::]:2303"])]);
        }
        let backends: Vec<Value> = (0..=self.below(2))
            .map(|_| {
                let mut backend = json!({"port": self.port(), "peer_port": shared.map_or(bind, |(_, port)| port)});
                if self.chance(80) {
                    let name = self.pick(&[
                        "ssh",
                        "smtp",
                        "db1",
                        "db2",
                        "x.example.com",
                        "caddy",
                        "node2",
                        "git",
                        "n",
                        "http-n.example.com",
                        "a b",
                    ]);
                    backend["name"] = name.into();
                }
                if self.chance(5) {
                    backend["peer_port"] = self.port();
                }
                if shared.is_some() || self.chance(20) {
                    backend["use_backend_option"] = self.line(Place::Condition.known()).into();
                }
                if self.chance(50) {
                    let words: Vec<String> = (0..=self.below(3)).map(|_| self.line(Place::Server.known())).collect();
                    backend["server_option"] = words.join(" ").into();
                }
                if self.chance(50) {
                    backend["options"] = self.lines(Place::Backend.known());
                }
                backend
            })
            .collect();
        let mut all = json!({"backends": backends});
        if shared.is_none() || self.chance(20) {
            all["frontend"] = own;
        }
        (name.to_string(), all)
    }
}

/// Section by section: its lines.
fn sections(text: &str) -> Vec<Vec<&str>> {
    let mut all: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if !line.starts_with(' ') || all.is_empty() {
            all.push(Vec::new());
        }
        all.last_mut().into_iter().for_each(|section| section.push(line));
    }
    all
}

#[test]
fn real_haproxy_takes_what_is_let_through() {
    let number = |name: &str, default: u64| std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    let (from, runs) = (number("FROM", 1), number("RUNS", 300));
    let read = |variable: &str, name: &str| routes::read(&services(&[(name, "HAPROXY", variable)]), &set(Version::Two));
    let record = |routes: &routes::Routes| json!({"master": "node1", "caddyfile": "", "haproxy": routes.haproxy});
    let theirs = read(PEERS, "other").unwrap();
    let neighbour = app("other", record(&theirs));
    let alone = written(&[&neighbour], &view());
    let (mut taken, mut failed) = (0, Vec::new());
    for seed in from..from + runs {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let all: serde_json::Map<String, Value> = (0..=random.below(2)).map(|_| random.configuration()).collect();
        let Ok(mine) = read(&Value::from(all.clone()).to_string(), "web") else { continue };
        if routes::conflicts("mine", "node1", &mine, [("other", "node1", "", &theirs.haproxy)]).is_err() {
            continue;
        }
        taken += 1;
        let text = written(&[&app("mine", record(&mine)), &neighbour], &view());
        let own = sections(&text);
        let kept = sections(&alone).into_iter().all(|section| match own.iter().find(|own| own[0] == section[0]) {
            // Shared: nothing of it is gone.
            Some(own) if section[0].starts_with("frontend http") => section.iter().all(|line| own.contains(line)),
            Some(own) => *own == section,
            None => false,
        });
        let whole = format!(
            "defaults\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\nresolvers system\n    nameserver a 127.0.0.1:53\n{}",
            text.replace("init-addr last,libc,none", "init-addr none") // nobody is to be asked for names
        );
        let accepts = std::panic::catch_unwind(|| real::accepts(real::HAPROXY, &whole)).is_ok();
        if !kept || !accepts {
            println!("==== FROM={seed} RUNS=1: neighbour kept: {kept}, taken: {accepts}\n{}\n{text}", Value::from(all));
            failed.push(seed);
        }
    }
    println!("{taken} of {runs} were let through");
    assert!(failed.is_empty() && taken * 20 > runs, "{taken} of {runs} were let through; these do harm: {failed:?}");
}
