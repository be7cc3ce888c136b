//! The laboratory as the scenarios see it: nodes, applications, a client that measures, and what is to be found afterwards.
//!
//! `tests/lab/lab` makes the nodes; everything here goes through `docker exec`, so that a cut network cuts only the nodes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::client::{self, Client};

pub const NODES: [u8; 3] = [1, 2, 3];
const HOME: &str = "/var/lib/handler-lab";
const SOCKET: &str = "/run/docker/plugins/btrfs.sock";
const CROWD: &str = include_str!("crowd.py");
/// The certificates by which a client knows the application.
const ROOT: &str = "/tmp/root.crt";
/// What runs of the handler: by hand or by the watches, and the workers that those start.
const HANDLERS: &str = "^(/opt/handler/handler|handler (work|reconcile|probe)) ?";
/// For whatever the cluster should reach by itself.
pub const SOON: Duration = Duration::from_secs(60);

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn name(node: u8) -> String {
    format!("node{node}")
}

pub fn address(node: u8) -> String {
    format!("172.31.77.1{node}")
}

pub fn socket(node: u8, port: u16) -> SocketAddr {
    ([172, 31, 77, 10 + node], port).into()
}

/// Asks again every 100 ms until `ask` has an answer; its last complaint if it never has.
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if start.elapsed() > limit => panic!("{what}: not within {} s: {why}", limit.as_secs()),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

pub fn must(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert_eq!(output.code, Some(0), "{program} {args:?}: {}{}", output.out, output.err);
    output.out
}

#[derive(Clone, Copy)]
pub struct Node(pub u8);

impl Node {
    fn container(self) -> String {
        format!("handler-lab-node{}", self.0)
    }

    pub fn exec(self, args: &[&str]) -> Output {
        run("docker", &[&["exec", &self.container()], args].concat())
    }

    /// A shell script that has to succeed.
    pub fn sh(self, script: &str) -> String {
        let output = self.exec(&["bash", "-c", script]);
        assert_eq!(output.code, Some(0), "{}: {script}: {}{}", name(self.0), output.out, output.err);
        output.out
    }

    /// `kill -9` for all of the node.
    pub fn kill(self) {
        must("docker", &["kill", &self.container()]);
    }

    pub fn start(self) {
        must("docker", &["start", &self.container()]);
    }

    pub fn runs(self) -> bool {
        must("docker", &["inspect", "-f", "{{.State.Running}}", &self.container()]).trim() == "true"
    }

    /// The power of the node fails: what its volumes' disk was not told to keep is lost. It starts again. Nothing of the node runs while the
    /// disk is copied: what it syncs, and tells others, after that would be lost.
    pub fn lose_power(self) {
        let (disk, name) = (Path::new(HOME).join("disk"), name(self.0));
        let (image, folder) = (disk.join(format!("{name}.img")), disk.join(&name));
        let script = format!(
            "docker pause {2} >/dev/null && cp --sparse=always '{0}' '{0}.cut' && docker kill {2} >/dev/null && umount '{1}' && \
             mv '{0}.cut' '{0}' && mount -o loop '{0}' '{1}'",
            image.display(),
            folder.display(),
            self.container()
        );
        must("bash", &["-ec", &script]);
        self.start();
    }

    /// Ends every run of the handler with SIGKILL; whether there was one.
    pub fn kill_handler(self) -> bool {
        self.exec(&["pkill", "-KILL", "-f", HANDLERS]).code == Some(0)
    }

    /// The engine is killed with SIGKILL and started again: what ran goes down, and what has a restart policy comes up again.
    pub fn restart_engine(self) {
        self.sh("dockerd=$(tr '\\0' ' ' </proc/$(pidof dockerd)/cmdline); pkill -KILL -x dockerd; sleep 0.5; \
             setsid $dockerd >>/var/log/node/dockerd.log 2>&1 </dev/null & \
             for i in $(seq 300); do ! docker info >/dev/null 2>&1 || exit 0; sleep 0.1; done; exit 1");
    }

    /// What Consul's catalog says of its health check: the status, and what was printed when that came; what is printed later the catalog
    /// hears within minutes.
    pub fn health(self) -> (String, String) {
        // Its agent may be on its way up.
        let found = self.exec(&["consul-api", &format!("health/node/{}", name(self.0))]).out;
        let checks: Value = serde_json::from_str(&found).unwrap_or_default();
        let check = checks.as_array().into_iter().flatten().find(|check| check["CheckID"] == "handler").cloned().unwrap_or_default();
        let text = |member: &str| check[member].as_str().unwrap_or_default().to_string();
        (text("Status"), text("Output"))
    }

    /// Another disk for the deploy folder, which is soon full; until the scenario ends, or the node does.
    pub fn small_disk(self, make: &str) {
        self.sh(&format!(
            "{LOOPS}; truncate -s 160M /small.img && {make} /small.img >/dev/null 2>&1 && mkdir -p /small && mount -o loop /small.img /small && \
             cp -a /deploy/. /small && mount --move /small /deploy"
        ));
    }

    /// A URL asked for through this node's proxies: the answer with its header.
    pub fn routed(self, url: &str) -> Result<String, String> {
        self.routed_with(url, &[])
    }

    /// With headers, for example.
    pub fn routed_with(self, url: &str, more: &[&str]) -> Result<String, String> {
        let (from, words) = curl(self.0);
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["-Si", url]).chain(more.iter().copied()).collect();
        let output = from.exec(&words);
        if output.code == Some(0) { Ok(output.out) } else { Err(output.err) }
    }

    pub fn crowd(self, url: &str) -> Crowd {
        let words = ["exec", "-i", &client_of(self.0).container(), "python3", "-c", CROWD, url, &address(self.0), ROOT];
        let mut command = Command::new("docker");
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        Crowd(command.spawn().unwrap())
    }

    fn answers(self, port: u16, path: &str) -> Option<String> {
        client::get(socket(self.0, port), path)
    }
}

/// What a container has to be given of loop devices.
const LOOPS: &str = "for n in $(seq 0 63); do [ -e /dev/loop$n ] || mknod /dev/loop$n b 7 $n; done
     [ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237";

fn agent(limit: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(limit)).proxy(None).build().into()
}

/// How an order ended.
pub struct Ended {
    pub state: String,
    pub reason: String,
    pub order: Value,
}

impl Ended {
    pub fn done(self) -> Ended {
        assert_eq!(self.state, "done", "{:#}", self.order);
        self
    }

    pub fn failed(self, part: &str) -> Ended {
        assert_eq!(self.state, "failed", "{:#}", self.order);
        assert!(self.reason.contains(part), "the reason has no {part:?}: {}", self.reason);
        self
    }
}

/// What one node has of an application.
#[derive(Debug, Default)]
pub struct Facts {
    pub running: Vec<String>,
    pub stopped: Vec<String>,
    pub volumes: BTreeSet<String>,
    pub snapshots: BTreeSet<String>,
    /// (volume, action)
    pub schedules: BTreeSet<(String, String)>,
    pub checkouts: Vec<String>,
    pub service: bool,
    pub journals: usize,
}

/// The laboratory, for one scenario; the others wait.
pub struct Lab {
    pub scenario: String,
    stamp: u64,
    _lock: File,
}

impl Lab {
    /// All nodes up, connected and empty.
    pub fn take(scenario: &str) -> Lab {
        fs::create_dir_all(HOME).unwrap();
        let lock = File::create(Path::new(HOME).join("lock")).unwrap();
        lock.lock().unwrap();
        let there = run("docker", &["inspect", "handler-lab-node1"]).code == Some(0);
        assert!(there, "there is no laboratory: run `make lab` first, or `make lab-test`");
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let lab = Lab { scenario: scenario.into(), stamp, _lock: lock };
        lab.reset();
        lab
    }

    pub fn node(&self, node: u8) -> Node {
        Node(node)
    }

    /// Removes what earlier scenarios left. What Consul remembers of events stays, or it would all happen again.
    fn reset(&self) {
        for node in NODES.map(Node) {
            if !node.runs() {
                node.start();
            }
        }
        self.heal();
        self.settle_consul();
        for node in NODES.map(Node) {
            node.kill_handler();
            node.sh(
                "! mountpoint -q /deploy || { cp /deploy/.handler/seen /tmp/ && umount -l /deploy && cp /tmp/seen /deploy/.handler/; }; \
                 rm -rf /small.img /var/lib/buttervolume/ballast",
            );
            node.sh("rm -f /etc/handler.env; cd /deploy && rm -rf *_*.*-* .proxies .handler/proxies .handler/routes.* .handler/apps/* .handler/inbox/* .handler/probe.json; : > handler.log");
        }
        Node(1).sh("for prefix in app maintenance order replica; do consul kv delete -recurse $prefix/; done");
        thread::scope(|scope| {
            for node in NODES.map(Node) {
                scope.spawn(move || {
                    node.sh("docker ps -aq | xargs -r docker rm -f; docker volume ls -q | xargs -r docker volume rm; \
                         docker network prune -f; rm -f /etc/buttervolume/schedule.csv; \
                         cd /var/lib/buttervolume; for s in snapshots/* volumes/*; do [ ! -e $s ] || btrfs -q subvolume delete $s; done; \
                         for s in $(consul-api agent/services | jq -r 'keys[]'); do consul services deregister -id=$s; done")
                });
            }
        });
    }

    /// A leader, and every node sees all nodes. An agent tries a lost member again only every 30 s, so it is told to: what the
    /// handler sees is the same.
    pub fn settle_consul(&self) {
        let script = format!(
            "test -S {SOCKET} || {{ echo no volume plugin; exit; }}
             docker info >/dev/null 2>&1 || {{ echo no engine; exit; }}
             lost=$(consul-api agent/members | jq -r '{:?} - [.[] | select(.Status == 1) | .Addr] | join(\" \")') || exit
             [ -z \"$lost\" ] || {{ timeout 5 consul join $lost >/dev/null 2>&1; echo \"misses $lost\"; exit; }}
             alive=$(consul-api 'health/state/passing?consistent' | jq '[.[] | select(.CheckID == \"serfHealth\")] | length')
             [ \"$alive\" = 3 ] || {{ echo \"$alive alive in the catalog\"; exit; }}
             voters=$(consul operator raft list-peers 2>/dev/null | grep -c ' true ')
             [ \"$voters\" = 3 ] || {{ echo \"$voters voters\"; exit; }}
             consul kv put lab ready >/dev/null 2>&1 && echo settled || echo no leader",
            NODES.map(address)
        );
        thread::scope(|scope| {
            for node in NODES.map(Node) {
                let script = &script;
                scope.spawn(move || {
                    wait_until(&format!("{} in the cluster", name(node.0)), secs(120), || {
                        match node.exec(&["bash", "-c", script]).out.trim() {
                            "settled" => Ok(()),
                            other => Err(other.to_string()),
                        }
                    });
                });
            }
        });
    }

    /// `alive`, `failed`, `left`, or `gone`.
    pub fn seen_by(&self, node: u8, other: u8) -> String {
        let members = Node(node).exec(&["consul", "members"]).out;
        let line = members.lines().find(|line| line.split_whitespace().next() == Some(&name(other)));
        line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or("gone").into()
    }

    /// Each node hears of it by itself, up to a second later than another. Whoever is to act on it has to know.
    pub fn wait_dead(&self, by: &[u8], other: u8) {
        for by in by {
            wait_until(&format!("{} notices that {} is gone", name(*by), name(other)), SOON, || match &*self.seen_by(*by, other) {
                "alive" => Err("alive".into()),
                _ => Ok(()),
            });
        }
    }

    /// No packet passes between the two groups of nodes. The host still reaches both. Dropped where they arrive: a sender whose
    /// own firewall refuses takes that for its own fault, and Consul would not call the other dead.
    pub fn cut(&self, one: &[u8], other: &[u8]) {
        for (here, there) in [(one, other), (other, one)] {
            for node in here {
                let rules: String = there.iter().map(|n| format!("iptables -A LAB -s {} -j DROP;", address(*n))).collect();
                Node(*node)
                    .sh(&format!("iptables -N LAB 2>/dev/null && {{ iptables -I INPUT -j LAB; iptables -I FORWARD -j LAB; }}; {rules}"));
            }
        }
        self.note(&format!("network cut: {one:?} | {other:?}"));
    }

    pub fn heal(&self) {
        for node in NODES.map(Node).into_iter().filter(|node| node.runs()) {
            node.exec(&["iptables", "-F", "LAB"]);
        }
    }

    /// Printed with the results: what happened when.
    pub fn note(&self, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        println!("lab: {} +{:.1} s: {text}", self.scenario, now.as_secs_f64() - self.stamp as f64);
    }

    /// A figure, kept for the end of `lab test`. Never judged: the machine may be busy.
    pub fn measured(&self, what: &str, time: Duration) {
        let text = format!("{what}: {:.2} s", time.as_secs_f64());
        self.note(&text);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab");
        let file = fs::create_dir_all(&folder).and_then(|()| File::options().append(true).create(true).open(folder.join("figures")));
        writeln!(file.unwrap(), "{text}").unwrap();
    }

    /// Settings of the handler on every node, until the scenario ends.
    pub fn set(&self, variables: &[(&str, &str)]) {
        let text: String = variables.iter().map(|(name, value)| format!("export {name}={value}\\n")).collect();
        for node in NODES {
            Node(node).sh(&format!("printf '{text}' > /etc/handler.env"));
        }
    }

    /// haproxy and Caddy on every node, until the scenario ends.
    pub fn proxies(&self) {
        thread::scope(|scope| {
            for node in NODES.map(Node) {
                scope.spawn(move || node.sh("proxies"));
            }
        });
        self.note("the proxies are up");
    }

    /// Clients trust every Caddy's own authority, those of these nodes in any case: after a move another one signs.
    pub fn trust(&self, nodes: &[u8]) {
        let root = "cat /var/lib/docker/volumes/*caddy-data/_data/caddy/pki/authorities/local/root.crt";
        let roots = NODES.map(|node| {
            wait_until(&format!("the authority of {}'s Caddy", name(node)), SOON, || match Node(node).exec(&["bash", "-c", root]) {
                Output { code: Some(0), out, .. } => Ok(out),
                _ if !nodes.contains(&node) => Ok(String::new()),
                output => Err(output.err),
            })
        });
        for node in NODES.map(Node) {
            // Renamed into place: clients may be reading it.
            node.sh(&format!("echo '{}' > {ROOT}.new && mv {ROOT}.new {ROOT}", roots.concat()));
        }
    }

    /// Every node leads to the application, which runs on the master: by name, encrypted by the master's Caddy, and by port.
    pub fn expect_routes(&self, app: &App, master: u8, version: &str) {
        let domain = app.domain.unwrap();
        self.trust(&[master]);
        for node in NODES.map(Node) {
            for url in [format!("http://{domain}/version"), format!("https://{domain}/version")] {
                wait_until(&format!("{url} by {}", name(node.0)), SOON, || match node.routed(&url)? {
                    text if text.contains(" 200") && text.ends_with(&format!("\r\n\r\n{version}\n")) => Ok(()),
                    text => Err(text),
                });
            }
            wait_until(&format!("port 2222 of {}", name(node.0)), SOON, || match node.answers(2222, "/version") {
                Some(text) if text.trim() == version => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        self.note(&format!("all nodes lead to {}", name(master)));
    }

    /// An application with a repository of its own, not yet deployed.
    pub fn app(&self, label: &str, port: u16) -> App {
        let folder = PathBuf::from(HOME).join("repos").join(format!("{label}{}", self.stamp));
        App::new(folder, "main", port)
    }

    /// A key as Consul has it for every node; any living node is asked.
    pub fn kv(&self, asked: u8, key: &str) -> Option<Value> {
        let output = Node(asked).exec(&["consul-api", &format!("kv/{key}?raw")]);
        serde_json::from_str(&output.out).ok()
    }

    pub fn keys(&self, asked: u8, prefix: &str) -> Vec<String> {
        let output = Node(asked).exec(&["consul-api", &format!("kv/{prefix}?keys")]);
        serde_json::from_str(&output.out).unwrap_or_default()
    }

    /// Fires an event as an operator does; its ID.
    pub fn fire(&self, node: u8, event: &str, payload: &Value) -> String {
        self.note(&format!("{event} {payload} fired on {}", name(node)));
        let out = Node(node).sh(&format!("consul event -name {event} '{payload}'"));
        out.trim().trim_start_matches("Event ID: ").to_string()
    }

    /// `handler deploy|destroy|migrate` on a node, to its end.
    pub fn order(&self, node: u8, event: &str, payload: &Value) -> Output {
        self.note(&format!("handler {event} {payload} on {}", name(node)));
        let output = Node(node).exec(&["handler", event, &payload.to_string()]);
        self.note(&format!("ended with {:?}", output.code));
        output
    }

    pub fn wait_end(&self, asked: u8, app: &App, id: &str, limit: Duration) -> Ended {
        let key = format!("history/{}/{id}", app.name());
        let order = wait_until(&format!("the end of {id}"), limit, || {
            self.kv(asked, &key).ok_or_else(|| format!("{:?}", self.kv(asked, &format!("order/{id}"))))
        });
        let text = |member: &str| order[member].as_str().unwrap_or_default().to_string();
        self.note(&format!("{} {}", text("state"), text("reason")));
        Ended { state: text("state"), reason: text("reason"), order }
    }

    /// Fires and waits for the end.
    pub fn deploy(&self, app: &App, master: u8, slave: Option<u8>) -> Ended {
        let id = self.fire(3, "deploy", &app.deploy(master, slave));
        self.wait_end(3, app, &id, secs(120))
    }

    /// Waits until the order has reached this state (or has ended).
    pub fn wait_state(&self, asked: u8, id: &str, state: &str) {
        wait_until(&format!("{id} is {state}"), SOON, || {
            let order = self.kv(asked, &format!("order/{id}")).ok_or("gone")?;
            if order["state"] == state { Ok(()) } else { Err(order["state"].to_string()) }
        });
        self.note(&format!("the order is {state}"));
    }

    pub fn facts(&self, node: u8, app: &App) -> Facts {
        let (project, name) = (app.project(), app.name());
        let out = Node(node).sh(&format!(
            "docker ps -aq --filter label=com.docker.compose.project={project} --format '{{{{.State}}}} {{{{.Names}}}}' | sed 's/^/container /'
             cd /var/lib/buttervolume
             for v in volumes/{project}_*; do [ ! -e $v ] || echo volume ${{v#*/}}; done
             for s in snapshots/{project}_*; do [ ! -e $s ] || echo snapshot ${{s#*/}}; done
             sed -n 's/^\\({project}_[^,]*\\),\\([^,]*\\),.*/schedule \\1 \\2/p' /etc/buttervolume/schedule.csv 2>/dev/null
             for c in /deploy/{name}-*; do [ ! -e $c ] || echo checkout $c; done
             for j in /deploy/.handler/apps/{name}/journal; do [ ! -e $j ] || echo journal $j; done
             consul-api agent/services | jq -r 'keys[]' | sed 's/^/service /'"
        ));
        let mut facts = Facts::default();
        for line in out.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["container", "running", container] => facts.running.push(container.into()),
                ["container", _, container] => facts.stopped.push(container.into()),
                ["volume", volume] => drop(facts.volumes.insert(volume.into())),
                ["snapshot", snapshot] => drop(facts.snapshots.insert(snapshot.into())),
                ["schedule", volume, action] => drop(facts.schedules.insert((volume.into(), action.into()))),
                ["checkout", folder] => facts.checkouts.push(folder.into()),
                ["journal", _] => facts.journals += 1,
                ["service", service] if service == name => facts.service = true,
                _ => {}
            }
        }
        facts
    }

    /// Waits until everything is as a deployment with these roles leaves it, on every node.
    pub fn expect(&self, app: &App, want: &Want) {
        wait_until(&format!("{} as it should be", app.name()), want.limit, || {
            let wrong = self.differences(app, want);
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
        });
    }

    fn differences(&self, app: &App, want: &Want) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |what: String, is: String, should: String| {
            if is != should {
                wrong.push(format!("{what}: {is}, expected {should}"));
            }
        };
        let asked = want.master.unwrap_or(3);
        let record = self.kv(asked, &format!("app/{}", app.name()));
        let role = |member: &str| record.as_ref().map(|record| record[member].clone()).unwrap_or_default();
        let node = |node: Option<u8>| node.map_or(Value::Null, |node| json!(name(node)));
        check("record's master".into(), role("master").to_string(), node(want.master).to_string());
        check("record's slave".into(), role("slave").to_string(), node(want.slave).to_string());
        check("maintenance".into(), format!("{:?}", self.keys(asked, &format!("maintenance/{}", app.name()))), "[]".into());
        let open = self
            .keys(asked, "order/")
            .into_iter()
            .filter_map(|key| self.kv(asked, &key))
            .filter(|order| order["name"] == app.name())
            .count();
        check("open orders".into(), open.to_string(), "0".into());
        for n in NODES.into_iter().filter(|n| Node(*n).runs()) {
            let facts = self.facts(n, app);
            let (master, slave) = (want.master == Some(n), want.slave == Some(n));
            check(format!("{} runs it", name(n)), (!facts.running.is_empty()).to_string(), master.to_string());
            check(format!("{} service", name(n)), facts.service.to_string(), master.to_string());
            check(format!("{} checkouts", name(n)), facts.checkouts.len().to_string(), usize::from(master || slave).to_string());
            check(format!("{} journals", name(n)), facts.journals.to_string(), "0".into());
            if want.fenced == Some(n) {
                check(format!("{} keeps its data", name(n)), (!facts.snapshots.is_empty()).to_string(), "true".into());
            } else {
                check(format!("{} stopped containers", name(n)), format!("{:?}", facts.stopped), "[]".into());
                check(
                    format!("{} volumes", name(n)),
                    facts.volumes.len().to_string(),
                    if master { app.volumes.len() } else { 0 }.to_string(),
                );
            }
            // Each node sees its snapshots: the handler keeps sets.
            check(format!("{} schedules", name(n)), format!("{:?}", facts.schedules), "{}".into());
        }
        if let Some(master) = want.master {
            check("version".into(), Node(master).answers(app.port, "/version").unwrap_or_default().trim().into(), want.version.into());
        }
        wrong
    }

    /// Whatever was decided: one node runs it, the record names that node, and the data is there. Which node.
    pub fn expect_one(&self, app: &App, data: &[(&str, &str)], limit: Duration) -> u8 {
        let master = wait_until(&format!("one node runs {}", app.name()), limit, || {
            let running: Vec<u8> = NODES.into_iter().filter(|n| !self.facts(*n, app).running.is_empty()).collect();
            let record = self.kv(3, &format!("app/{}", app.name())).unwrap_or_default();
            let open: Vec<String> = self.keys(3, "order/");
            let maintenance = self.keys(3, "maintenance/");
            match running[..] {
                [one] if record["master"] == name(one) && open.is_empty() && maintenance.is_empty() => Ok(one),
                _ => Err(format!("running on {running:?}, record names {}, open {open:?}, maintenance {maintenance:?}", record["master"])),
            }
        });
        for (key, value) in data {
            wait_until("the data", secs(20), || match app.read(master, key) {
                Some(is) if is == *value => Ok(()),
                is => Err(format!("{} has {is:?} in {key}, expected {value:?}", name(master))),
            });
        }
        self.note(&format!("{} runs it, with its data", name(master)));
        master
    }

    /// A set of what the application holds now is taken, sent, and confirmed by who holds it.
    pub fn replicate(&self, app: &App, from: u8, to: u8) {
        let before = self.replica(app, to)["last"].clone();
        wait_until("a confirmed set", SOON, || {
            for (node, words) in [(from, &["--now"][..]), (to, &[])] {
                let output = Node(node).exec(&[&["handler", "replicate", &app.name()], words].concat());
                assert_eq!(output.code, Some(0), "{}", output.err);
            }
            match self.replica(app, to) {
                replica if replica["last"].is_null() || replica["last"] == before => Err(replica.to_string()),
                _ => Ok(()),
            }
        });
    }

    /// What Consul says of the application's replica on this node.
    pub fn replica(&self, app: &App, holder: u8) -> Value {
        self.kv(3, &format!("replica/{}/{}", app.name(), name(holder))).unwrap_or_default()
    }

    /// A client that asks all nodes every 50 ms until it is dropped or asked for what it saw.
    pub fn client(&self, app: &App) -> Client {
        Client::start(NODES.map(|node| socket(node, app.port)))
    }

    fn keep_logs(&self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab-logs").join(&self.scenario);
        drop(fs::remove_dir_all(&folder));
        for node in NODES.map(Node) {
            let folder = folder.join(name(node.0));
            fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let to = folder.display().to_string();
            for from in ["/var/log/node/.", "/deploy/handler.log", "/deploy/.handler", "/deploy/.proxies"] {
                run("docker", &["cp", &format!("{}:{from}", node.container()), &to]);
            }
            let state = node.exec(&[
                "bash",
                "-c",
                "consul members; docker ps -a; ls -l /deploy /var/lib/buttervolume/volumes /var/lib/buttervolume/snapshots; \
                 cat /etc/buttervolume/schedule.csv; consul kv export",
            ]);
            drop(fs::write(folder.join("state"), state.out + &state.err));
            for proxy in ["haproxy", "caddy"] {
                let said = node.exec(&["docker", "logs", "-t", proxy]);
                drop(fs::write(folder.join(format!("{proxy}.log")), said.out + &said.err));
            }
        }
        println!("lab: logs of all nodes are in {}", folder.display());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_logs();
        }
        self.heal();
        self.note("end");
    }
}

/// What a deployment should look like.
pub struct Want {
    pub master: Option<u8>,
    pub slave: Option<u8>,
    pub version: &'static str,
    /// Was master when another took over: its containers are stopped, its data is kept.
    pub fenced: Option<u8>,
    pub limit: Duration,
}

impl Want {
    pub fn on(master: u8, slave: Option<u8>) -> Want {
        Want { master: Some(master), slave, version: "1", fenced: None, limit: SOON }
    }

    pub fn nowhere() -> Want {
        Want { master: None, slave: None, version: "", fenced: None, limit: SOON }
    }

    pub fn version(self, version: &'static str) -> Want {
        Want { version, ..self }
    }

    pub fn fenced(self, node: u8) -> Want {
        Want { fenced: Some(node), ..self }
    }

    pub fn within(self, limit: Duration) -> Want {
        Want { limit, ..self }
    }
}

/// What a commit of an application does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Variant {
    Good,
    BuildFails,
    NoImage,
    BadCompose,
    UpdateFails,
    Exits,
    Unhealthy,
}

/// A node that is not asked itself, since engines treat their own clients differently.
pub fn client_of(node: u8) -> Node {
    Node(node % 3 + 1)
}

/// curl with all that leads to this node, whatever the URL says, and trusts every Caddy.
fn curl(to: u8) -> (Node, Vec<String>) {
    let words = ["curl", "-s", "-m", "60", "--cacert", ROOT, "--connect-to"];
    let mut words = words.map(String::from).to_vec();
    words.push(format!("::{}:", address(to)));
    (client_of(to), words)
}

/// Of a service, below its environment. Caddy signs for the domain itself: nobody else is there to do it.
const ROUTES: &str = "      CADDYFILE: |
        http://DOMAIN {
            reverse_proxy $CONTAINER:8080
        }
        https://DOMAIN {
            tls internal
            reverse_proxy $CONTAINER:8080
        }
      HAPROXY: |
        raw-PORT:
          frontend: {mode: tcp, bind: ['*:PORT'], options: [option tcplog]}
          backends: [{name: raw-PORT, port: 8080, peer_port: PORT}]
    networks: [cluster_default]
";

/// An application: a branch of a git repository that all nodes see at `/repos`.
pub struct App {
    folder: PathBuf,
    branch: String,
    pub port: u16,
    pub volumes: Vec<String>,
    /// Volumes that migrate leaves alone.
    pub fixed: Vec<String>,
    /// Under which the proxies lead to it: HTTP, HTTPS, and any TCP, on port 2222 where its own is 8080.
    pub domain: Option<&'static str>,
    /// Its containers' policy.
    pub restart: &'static str,
}

impl App {
    fn new(folder: PathBuf, branch: &str, port: u16) -> App {
        let app = App {
            folder,
            branch: branch.into(),
            port,
            volumes: vec!["data".into()],
            fixed: Vec::new(),
            domain: None,
            restart: "unless-stopped",
        };
        app.commit("1", Variant::Good);
        app
    }

    /// Another branch of the same repository.
    pub fn branch(&self, branch: &str, port: u16) -> App {
        let app = App {
            branch: branch.into(),
            port,
            folder: self.folder.clone(),
            volumes: self.volumes.clone(),
            fixed: self.fixed.clone(),
            domain: None,
            restart: self.restart,
        };
        app.commit("1", Variant::Good);
        app
    }

    fn git(&self, args: &[&str]) {
        let folder = self.folder.display().to_string();
        must("git", &[&["-C", &folder, "-c", "user.name=lab", "-c", "user.email=lab@example.com"], args].concat());
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.join(file), text).unwrap();
    }

    /// The next commit of the branch. The data lies in `/data`, further volumes in `/<name>`.
    pub fn commit(&self, version: &str, variant: Variant) {
        if !self.folder.join(".git").is_dir() {
            fs::create_dir_all(&self.folder).unwrap();
            self.git(&["init", "-q", "-b", &self.branch]);
            self.git(&["commit", "-q", "--allow-empty", "-m", "first"]);
        }
        if run("git", &["-C", &self.folder.display().to_string(), "checkout", "-q", &self.branch]).code != Some(0) {
            self.git(&["checkout", "-q", "-b", &self.branch]);
        }
        let testapp = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/testapp/testapp");
        fs::copy(&testapp, self.folder.join("testapp"))
            .unwrap_or_else(|error| panic!("{}: {error}; run `make testapp`", testapp.display()));
        let broken = if variant == Variant::BuildFails { "COPY nothing /nothing\n" } else { "" };
        self.write(
            "Dockerfile",
            &format!(
                "FROM scratch\nCOPY testapp /testapp\n{broken}\
                 HEALTHCHECK --interval=1s --timeout=2s --retries=2 CMD [\"/testapp\", \"health\"]\nENTRYPOINT [\"/testapp\"]\n"
            ),
        );
        let source = if variant == Variant::NoImage { "image: 172.31.77.1/nothing:1" } else { "build: ." };
        let extra = match variant {
            Variant::Exits => "      EXIT_AFTER: \"0.2\"\n",
            Variant::Unhealthy => "      UNHEALTHY: \"1\"\n",
            _ => "",
        };
        let (routes, networks) = match self.domain {
            Some(domain) => (
                ROUTES.replace("DOMAIN", domain).replace("PORT", &(self.port - 5858).to_string()),
                "networks:\n  cluster_default:\n    external: true\n",
            ),
            None => Default::default(),
        };
        let (port, restart) = (self.port, self.restart);
        let mounts: String = self.volumes.iter().map(|volume| format!("      - {volume}:/{volume}\n")).collect();
        let volumes: String = self
            .volumes
            .iter()
            .map(|volume| {
                let label =
                    if self.fixed.contains(volume) { "    labels:\n      com.github.mlfmonde.cluster.nonmigrable: \"true\"\n" } else { "" };
                format!("  {volume}:\n    driver: btrfs\n{label}")
            })
            .collect();
        let broken = if variant == Variant::BadCompose { "services: [\n" } else { "" };
        self.write(
            "docker-compose.yml",
            &format!(
                "version: \"2.4\"\n{broken}services:\n  web:\n    {source}\n    restart: {restart}\n    ports: [\"{port}:8080\"]\n    \
                 environment:\n      VERSION: \"{version}\"\n{extra}{routes}    volumes:\n{mounts}volumes:\n{volumes}{networks}"
            ),
        );
        if variant == Variant::UpdateFails {
            self.write("update.sh", "echo 'no such column: colour' >&2\nexit 7\n");
        } else {
            drop(fs::remove_file(self.folder.join("update.sh")));
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", version]);
    }

    /// Adds a file to the next commit.
    pub fn add(&self, file: &str, text: &str) {
        self.git(&["checkout", "-q", &self.branch]);
        self.write(file, text);
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", file]);
    }

    /// The next commit has `new` for `old` in its compose file.
    pub fn replace(&self, old: &str, new: &str) {
        let file = "docker-compose.yml";
        self.add(file, &fs::read_to_string(self.folder.join(file)).unwrap().replacen(old, new, 1));
    }

    pub fn repo(&self) -> String {
        format!("file:///repos/{}", self.folder.file_name().unwrap_or_default().to_string_lossy())
    }

    pub fn request(&self) -> Value {
        json!({"repo": self.repo(), "branch": self.branch})
    }

    pub fn deploy(&self, master: u8, slave: Option<u8>) -> Value {
        let mut request = self.request();
        request["master"] = json!(name(master));
        if let Some(slave) = slave {
            request["slave"] = json!(name(slave));
        }
        request
    }

    pub fn name(&self) -> String {
        let last = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sum = format!("{:x}", md5::compute(format!("/repos/{last}")));
        format!("{last}_{}.{}", self.branch, &sum[..5])
    }

    pub fn project(&self) -> String {
        self.name().chars().filter(|c| c.is_ascii_alphanumeric()).collect()
    }

    /// Keeps a value in the application's data; the answer comes when it is on the disk.
    pub fn store(&self, node: u8, key: &str, value: &str) {
        let url = format!("http://{}:{}/{key}", address(node), self.port);
        wait_until("storing", secs(10), || match agent(secs(5)).post(&url).send(value) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        });
    }

    pub fn read(&self, node: u8, key: &str) -> Option<String> {
        Node(node).answers(self.port, &format!("/{key}"))
    }
}

/// What became of a request.
#[derive(Debug)]
#[allow(dead_code, reason = "some of it is for the reader of a failure only")]
pub struct Answer {
    /// When it was sent, in seconds since 1970, as the proxies' logs have it.
    pub at: f64,
    /// 0: no whole answer.
    pub status: u16,
    pub bytes: u64,
    pub time: Duration,
    /// What the client complains of.
    pub problem: String,
}

/// Asks for one URL every 50 ms, whether earlier answers have come or not.
pub struct Crowd(Child);

impl Crowd {
    /// Once all are answered.
    pub fn stop(mut self) -> Vec<Answer> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let answers = text.lines().map(|line| {
            let [at, status, bytes, secs, problem] = *line.splitn(5, ' ').collect::<Vec<_>>() else { panic!("{line:?}") };
            Answer {
                at: at.parse().unwrap(),
                status: status.parse().unwrap(),
                bytes: bytes.parse().unwrap(),
                time: Duration::from_secs_f64(secs.parse().unwrap()),
                problem: problem.into(),
            }
        });
        answers.collect()
    }
}
