//! The operator's side: three machines that have an engine, an empty disk and nothing else, and the README's commands and examples, word for
//! word, from nothing to a WordPress that is moved and taken over.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::harness::{SOON, must, run, secs, wait_until};

const NETWORK: &str = "handler-lab-machines";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../../README.md");

/// What a machine's init does: sshd and the engine. The empty disk has a name like any other; a user git is the git server.
const START: &str = r#"
for n in $(seq 0 63); do [ -e /dev/loop$n ] || mknod /dev/loop$n b 7 $n; done
[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
truncate -s 2G /var/lib/docker/sdb.img
ln -s "$(losetup -f --show /var/lib/docker/sdb.img)" /dev/sdb
rm -rf /consul /etc/buttervolume
mkdir -p /var/log/node /run/sshd
useradd -m git
mkdir ~git/.ssh ~git/web
cp ~/.ssh/authorized_keys ~git/.ssh
chown -R git ~git
/usr/sbin/sshd
exec dockerd --storage-driver overlay2 >/var/log/node/dockerd.log 2>&1
"#;

/// In place of `docker plugin install`, for want of a registry: a plugin of Docker's made of the machine's own programs, with the folders,
/// rights and sshd that the published one has.
const PLUGIN: &str = r#"
mkdir -p /tmp/plugin/rootfs/var/lib/buttervolume /tmp/plugin/rootfs/etc/buttervolume
cd /tmp/plugin
programs="$(command -v bash btrfs buttervolume date python3 sh ssh sshd) /bin/sh /bin/bash /usr/bin/python3 $(echo /usr/lib/python3*/lib-dynload/*.so)"
tar -ch --hard-dereference $(ldd $programs 2>/dev/null | grep -o '/[^ :]*' | sort -u) $(command -v buttervolume) /opt/buttervolume /usr/lib/python3* \
    /etc/passwd /etc/group /etc/nsswitch.conf /etc/ssh | tar -C rootfs -x
mkdir -p rootfs/root/.ssh rootfs/run/sshd rootfs/tmp rootfs/dev
printf '#!/bin/sh\n/usr/sbin/sshd -p 1122 -o UsePAM=no\nexec buttervolume run\n' >rootfs/start
chmod +x rootfs/start
folder() { echo "{\"Type\": \"bind\", \"Source\": \"/var/lib/buttervolume$1\", \"Destination\": \"$2\", \"Options\": [\"rbind\"]}"; }
cat >config.json <<END
{"Description": "buttervolume", "Documentation": "", "Entrypoint": ["/start"], "Env": [{"Name": "PATH", "Value": "$PATH"}],
 "Mounts": [$(folder '' /var/lib/buttervolume), $(folder /config /etc/buttervolume), $(folder /ssh /root/.ssh)],
 "PropagatedMount": "/var/lib/buttervolume", "Network": {"Type": "host"}, "Linux": {"Capabilities": ["CAP_SYS_ADMIN"]},
 "Interface": {"Types": ["docker.volumedriver/1.0"], "Socket": "btrfs.sock"}}
END
docker plugin create ccomb/buttervolume:latest .
docker plugin enable ccomb/buttervolume:latest
cd - >/dev/null
rm -r /tmp/plugin
"#;

/// The machine's own haproxy and Caddy, of Debian, in place of the official images: the same user, folders and commands.
const PROXIES: &str = r#"
image() { # name, program, what `docker import` sets
    name=$1 programs="$(command -v "$2") /bin/sh /bin/sleep"
    shift 2
    # The programs themselves, too, stand in ldd's list.
    tar -ch --hard-dereference $(ldd $programs | grep -o '/[^ :]*' | sort -u) /etc/passwd /etc/group /etc/nsswitch.conf |
        docker import "$@" - "$name"
}
image lab-haproxy haproxy --change 'USER haproxy'
image lab-caddy caddy --change 'ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data'
"#;

fn host(script: &str) -> String {
    must("bash", &["-ec", script])
}

/// As in the README, on a network of ours.
fn address(n: u8) -> String {
    here(&format!("10.0.0.{n}"))
}

fn here(text: &str) -> String {
    text.replace("10.0.0.", "172.31.78.1")
}

struct Machine {
    name: String,
    start: Instant,
    /// What is copied to it.
    folder: PathBuf,
}

impl Machine {
    fn new(n: u8) -> Machine {
        let name = format!("handler-lab-machine{n}");
        let folder = Path::new(ROOT).join("target/lab-machine").join(n.to_string());
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("start"), START).unwrap();
        let machine = Machine { name, start: Instant::now(), folder };
        let (name, folder) = (&machine.name, machine.folder.display());
        let names: String =
            ["git", "blog", "shop", "www.shop", "press"].map(|name| format!("--add-host {name}.example.com:{} ", address(1))).concat();
        let address = address(n);
        host(&format!(
            "cd '{folder}'
             '{ROOT}/tests/lab/lab' create --name {name} --hostname node{n} --network {NETWORK} --ip {address} -v /var/lib/docker {names} \
                 --entrypoint bash handler-lab-node -eu /start
             docker cp start {name}:/start
             docker start {name}",
        ));
        machine.note("machine started");
        wait_until("the machine's engine", SOON, || machine.try_sh("docker info").map(drop));
        machine.sh(PROXIES);
        host(&format!("docker save handler-consul | docker exec -i {name} sh -c 'cat >/root/handler-consul.tar'"));
        let install = "docker plugin install --grant-all-permissions ccomb/buttervolume\n";
        let steps = block("mkfs.btrfs /dev/sdb");
        assert!(steps.contains(install), "{steps}");
        machine.sh(&format!("set -e; {}", steps.replace(install, PLUGIN)));
        // The mount holds the disk; it is gone with the machine.
        machine.sh("losetup -d /dev/sdb && rm handler-consul.tar");
        machine.press_images();
        machine.note("disk, plugin, images");
        machine
    }

    fn note(&self, what: &str) {
        println!("lab: {:6.1} s  {}: {what}", self.start.elapsed().as_secs_f32(), self.name);
    }

    fn try_sh(&self, script: &str) -> Result<String, String> {
        let output = run("docker", &["exec", "-w", "/root", &self.name, "bash", "-c", &here(script)]);
        if output.code == Some(0) { Ok(output.out) } else { Err(format!("{script}: {}{}", output.out, output.err)) }
    }

    fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Puts the text there, and on the way into `target/lab-machine`.
    fn write(&self, path: &str, text: &str) {
        let file = self.folder.join("file");
        fs::write(&file, text).unwrap();
        must("docker", &["cp", &file.display().to_string(), &format!("{}:{path}", self.name)]);
    }

    /// Makes `git@git.example.com:web/NAME` of the README's example; `more` says how the test application listens there.
    fn repository(&self, name: &str, more: &str) {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        let dockerfile = fs::read_to_string(Path::new(ROOT).join("testapp/Dockerfile")).unwrap();
        fs::write(folder.join("Dockerfile"), format!("{dockerfile}COPY . /context\nENV VERSION={name} {more}\n")).unwrap();
        fs::write(folder.join("docker-compose.yml"), example(name)).unwrap();
        fs::copy(Path::new(ROOT).join("target/testapp/testapp"), folder.join("testapp")).expect("run `make testapp`");
        self.commit(name);
    }

    fn commit(&self, name: &str) {
        let folder = self.folder.join(name).display().to_string();
        must("docker", &["cp", &folder, &format!("{}:/home/git/web/{name}", self.name)]);
        self.sh(&format!(
            "cd ~git/web/{name} && git init -q -b main && git add -A && git -c user.name=lab -c user.email=lab@example.com commit -qm first \
             && chown -R git ."
        ));
    }

    /// Stand-ins for the images of the README's WordPress.
    fn press_images(&self) {
        let folder = self.folder.join("images");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(Path::new(ROOT).join("target/testapp/testapp"), folder.join("testapp")).expect("run `make testapp`");
        for (image, more) in [("mariadb:11", "\"mariadb\""), ("wordpress:6", "\"wordpress\"")] {
            let env = "ENV PORT=80 DATA=/var/www/html";
            fs::write(
                folder.join("Dockerfile"),
                format!("FROM scratch\nCOPY testapp /testapp\n{env}\nENTRYPOINT [\"/testapp\", {more}]\n"),
            )
            .unwrap();
            must("docker", &["cp", &folder.display().to_string(), &format!("{}:/tmp/", self.name)]);
            self.sh(&format!("docker build -q -t {image} /tmp/images"));
        }
    }

    /// Runs the README's own command that deploys it, and waits until it is there.
    fn deploy(&self, name: &str) {
        let asked =
            self.sh(commands(&format!("git@git.example.com:web/{name}")).find(|line| line.contains(" deploy ")).expect("its deploy"));
        let record = wait_until(&format!("{name} in Consul"), SOON, || {
            let found = self.try_sh(&format!("docker exec consul consul kv get -keys app/{name}_main."))?;
            if found.is_empty() { Err(self.sh("cat /deploy/handler.log")) } else { Ok(found) }
        });
        self.note(&format!("{name} deployed: {} {}", record.trim(), asked.lines().next().unwrap_or_default()));
    }

    /// What a client of the machine gets.
    fn answers(&self, expected: &str, arguments: &str) {
        wait_until(arguments, secs(20), || match self.try_sh(&format!("curl -sS --max-time 10 {arguments}")) {
            Ok(answer) if answer.trim() == expected => Ok(()),
            other => {
                Err(format!("expected {expected:?}, got {other:?}; {}", self.sh("cat /deploy/.proxies/*; tail -n 30 /deploy/handler.log")))
            }
        });
    }

    fn all_answer(&self) {
        self.answers("blog", "http://blog.example.com/version");
        self.answers("shop", "--cacert root.crt https://shop.example.com/version");
        self.answers("https://shop.example.com/a?b", "-o /dev/null -w '%{redirect_url}' 'http://www.shop.example.com/a?b'");
        self.answers("https://shop.example.com/a?b", "-o /dev/null -w '%{redirect_url}' 'http://shop.example.com/a?b'");
        self.answers("forge", "http://127.0.0.1:2222/version");
        self.answers("Welcome to WordPress", "--cacert root.crt https://press.example.com/");
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.sh(&format!(". cluster/.env; CONSUL_HTTP_TOKEN=$TOKEN consul-api {path}"))).unwrap()
    }

    fn leader(&self) {
        wait_until("a leader", SOON, || {
            let answer = self.try_sh("docker exec consul consul kv get -keys node/");
            answer.map_err(|why| format!("{why} {:?}", self.try_sh("docker ps -a; docker logs consul | tail -n 20")))
        });
    }

    /// As an operator would ask the proxies themselves.
    fn files_are_accepted(&self) {
        self.sh("docker exec haproxy haproxy -c -f /proxies/haproxy.cfg");
        self.sh("docker exec caddy caddy validate --config /proxies/caddy.json");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said =
                self.try_sh("docker ps -a; cat /deploy/handler.log; for c in consul haproxy caddy; do docker logs --tail 30 $c; done 2>&1");
            eprintln!("{}", said.unwrap_or_else(|why| why));
        }
        if std::env::var_os("KEEP").is_none() {
            run("docker", &["rm", "-f", "-v", &self.name]);
            run("docker", &["network", "rm", NETWORK]); // the last one can
        }
    }
}

/// The README's compose file of a repository.
fn example(name: &str) -> &'static str {
    let start = format!("```yaml\n# docker-compose.yml of the repository {name}\n");
    let (_, rest) = README.split_once(&start).unwrap_or_else(|| panic!("the README has no example {name}"));
    rest.split_once("```\n").unwrap().0
}

/// The README's commands from this one on, as far as they stand together.
fn block(first: &str) -> String {
    let begin = README.find(&format!("\n    {first}")).unwrap_or_else(|| panic!("the README has no command {first}"));
    README[begin + 1..].lines().take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", line.trim())).collect()
}

/// The README's commands that have this in them.
fn commands(part: &str) -> impl Iterator<Item = &'static str> {
    README.lines().filter(move |line| line.starts_with("    docker exec ") && line.contains(part)).map(str::trim)
}

/// The first one.
fn command(part: &str) -> &'static str {
    commands(part).next().unwrap_or_else(|| panic!("the README has no command with {part}"))
}

#[test]
fn a_newcomer_gets_what_the_readme_says() {
    for image in ["handler-consul", "handler-lab-node"] {
        assert_eq!(run("docker", &["image", "inspect", image]).code, Some(0), "there is no image {image}: run `make image lab`");
    }
    for n in 1..=3 {
        run("docker", &["rm", "-f", "-v", &format!("handler-lab-machine{n}")]);
    }
    run("docker", &["network", "rm", NETWORK]);
    must("docker", &["network", "create", "--subnet", "172.31.78.0/24", NETWORK]);
    let [machine, node2, node3] = std::thread::scope(|scope| {
        let all = [1, 2, 3].map(|n| scope.spawn(move || Machine::new(n)));
        all.map(|machine| machine.join().expect("a machine"))
    });
    machine.write("/root/cluster/docker-compose.yml", include_str!("../../consul/docker-compose.yml"));
    machine.write("/root/cluster/closed.json", include_str!("../../consul/closed.json"));
    let follow = |first: &str| machine.sh(&format!("set -eo pipefail; cd cluster; {}", block(first)));
    follow("for n in 1 2 3; do ssh -n root@10.0.0.$n cat");
    follow("mkdir -p /consul/config keys");
    follow("cat >.env <<END");
    machine.sh("printf 'HAPROXY_IMAGE=lab-haproxy\nCADDY_IMAGE=lab-caddy\n' >>cluster/.env"); // for want of a registry
    follow("for n in 2 3; do");
    machine.note("docker-compose up on all");
    let bootstrap = block("export CONSUL_HTTP_TOKEN=");
    let (bootstrap, policy) = bootstrap.split_once('\n').unwrap();
    let token = wait_until("the operator's token", SOON, || machine.try_sh(&format!("{bootstrap}; echo $CONSUL_HTTP_TOKEN | grep .")));
    let of_nodes = block("for n in 1 2 3; do\n");
    machine.sh(&format!("set -eo pipefail; cd cluster; export CONSUL_HTTP_TOKEN={token}{policy}{of_nodes}"));
    machine.leader();
    machine.sh(": >/deploy/handler.log"); // until it had its token it could but say so
    wait_until("all members", SOON, || {
        let members = machine.sh(command("consul members"));
        if members.matches("alive").count() == 3 { Ok(()) } else { Err(members) }
    });
    for machine in [&machine, &node2, &node3] {
        wait_until("that nothing is missing", SOON, || match machine.try_sh(&format!("{} 2>&1", command("handler probe")))? {
            said if said.contains("note") || said.contains("wrong:") => Err(said),
            _ => Ok(()),
        });
    }
    machine.note("a leader, members, nothing missing");
    // Whoever is on the node's own network and has no token writes nothing; a container of an application does not reach the agent.
    let put = "handler-consul consul kv put app/evil {} 2>&1";
    let refused = machine.try_sh(&format!("docker run --rm --network host {put}")).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
    let address = address(1);
    let unreached =
        machine.try_sh(&format!("docker run --rm --network cluster_default -e CONSUL_HTTP_ADDR={address}:8500 {put}")).unwrap_err();
    assert!(unreached.contains("connection refused"), "{unreached}");
    wait_until("both proxies", SOON, || {
        machine.try_sh("docker logs caddy 2>&1 | grep 'serving initial configuration'")?;
        machine.try_sh("curl -s -o /dev/null http://127.0.0.1:80/")
    });
    machine.note("both proxies serve");
    machine.files_are_accepted();
    let log = machine.sh("cat /deploy/handler.log");
    assert!(!log.contains("ERROR"), "the first start: {log}");

    machine.repository("blog", "");
    machine.repository("shop", "");
    machine.repository("forge", "PORT=22");
    machine.deploy("blog");
    machine.deploy("shop");
    machine.deploy("forge");
    machine.repository("press", "");
    // Refused without its password, with the remedy; then with it.
    let refused = machine.try_sh(command("handler deploy git@git.example.com:web/press")).unwrap_err();
    assert!(
        refused.contains("required variable DB_PASSWORD is missing a value") && refused.contains("handler env NAME set DB_PASSWORD"),
        "{refused}"
    );
    machine.write("/root/password", "g3h$im '\"\\ x\n");
    machine.sh(command("set DB_PASSWORD"));
    machine.deploy("press");
    machine.sh("docker cp caddy:/data/caddy/pki/authorities/local/root.crt .");
    machine.all_answer();
    machine.note("all answer");
    machine.files_are_accepted();
    assert!(machine.sh("docker volume ls").contains("ccomb/buttervolume:latest"));
    machine.sh("curl -sf -d value http://blog.example.com/key");
    let built = machine.sh("docker export $(docker ps -q --filter name=blogmain) | tar t | grep ^context/");
    assert!(built.contains("context/testapp\n") && !built.contains("/.handler-"), "what the handler keeps is part of the image: {built}");

    // The page, while the key is there.
    let shop = machine.sh("docker exec consul consul kv get -keys app/shop").trim().replace("app/", "maintenance/");
    machine.sh(command("maintenance blog on"));
    machine.sh(&format!("docker exec consul consul kv put {shop}"));
    for url in ["http://blog.example.com", "https://shop.example.com"] {
        wait_until("the maintenance page", secs(20), || {
            let answer = machine.sh(&format!("curl -si --cacert root.crt {url}/"));
            let lower = answer.to_lowercase();
            let there = [" 503", "retry-after: 30", "back in a moment"].iter().all(|part| lower.contains(part));
            if there { Ok(()) } else { Err(answer) }
        });
    }
    machine.sh(command("maintenance blog off"));
    machine.sh(&format!("docker exec consul consul kv delete {shop}"));
    machine.all_answer();
    machine.note("maintenance shown and over");

    // haproxy starts while caddy is not there, whose name has no address then.
    machine.sh("docker stop -t 2 caddy && docker restart -t 2 haproxy");
    machine.answers("forge", "http://127.0.0.1:2222/version");
    machine.sh("docker start caddy");
    machine.all_answer();
    machine.note("all answer after caddy and haproxy have been away");

    let applications = || machine.sh("docker ps --format '{{.ID}} {{.Names}}' | grep main | sort");
    let before = applications();
    machine.sh("docker restart consul");
    machine.all_answer();
    machine.leader();
    machine.note("consul restarted");
    // The other Compose, with the same file: it makes all three anew.
    machine.sh("cd cluster && /opt/compose2/usr/libexec/docker/cli-plugins/docker-compose up -d");
    machine.leader();
    machine.all_answer();
    machine.note("all made anew");
    assert_eq!(applications(), before, "the agent's start did something to the applications");
    wait_until("that all is well", SOON, || {
        let check = machine.json("agent/checks")["handler"].clone();
        if check["Status"] == "passing" && check["Output"] != "" { Ok(()) } else { Err(check.to_string()) }
    });
    assert_eq!(machine.sh("docker exec consul handler status | grep -c _main").trim(), "4");
    assert_eq!(machine.sh("curl -sf http://blog.example.com/key").trim(), "value");
    let told = "docker exec consul consul kv get -recurse | grep -v ^env/; cat /deploy/handler.log; docker exec consul handler -v plan deploy press";
    assert!(!machine.sh(told).contains("g3h$im"), "the password is told");
    assert_eq!(machine.sh("docker exec consul handler env press list").trim(), "DB_PASSWORD");
    let checks = machine.json("agent/checks").to_string();
    for url in ["http://blog.example.com", "http://blog.example.com/health", "https://shop.example.com", "http://www.shop.example.com"] {
        assert!(checks.contains(&format!("\"HTTP {url}\"")), "{url} is not in {checks}");
    }

    // Moved, and taken over from a node that died, each by the README's own command; page, password and certificate go with it.
    let post = "--cacert root.crt https://press.example.com/key";
    machine.sh(&format!("curl -sf -d 'first post' {post}"));
    let [go, over] = commands("handler deploy press").collect::<Vec<_>>()[..] else { panic!("the README does not move press") };
    machine.sh(go);
    machine.note("press moved");
    machine.answers("Welcome to WordPress", "--cacert root.crt https://press.example.com/");
    machine.answers("first post", post);
    assert!(node2.sh("docker ps").contains("wordpress:6"), "it runs elsewhere");
    must("docker", &["kill", &node2.name]);
    wait_until("that node2 is known to be dead", SOON, || machine.try_sh("docker exec consul consul members | grep 'node2.*failed'"));
    machine.sh(over);
    machine.note("press taken over");
    machine.answers("Welcome to WordPress", "--cacert root.crt https://press.example.com/");
    machine.answers("first post", post);
    machine.note("page and post are there");
    let snapshots =
        machine.sh(&format!("{}buttervolume snapshots $(docker volume ls -q | grep press | head -n 1)", block("buttervolume()")));
    assert!(snapshots.contains('@'), "{snapshots}");
}
