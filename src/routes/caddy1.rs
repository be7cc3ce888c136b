//! Sites for Caddy 2: Caddy 1 words upgraded, Caddy 2 words kept, and what every site gets. Pure.
//!
//! A Caddyfile counts as Caddy 1 when it uses a word that only Caddy 1 has, since some words (`redir`, `header`, `rewrite` …) are in
//! both and mean different things. Differences that shape what is written: Caddy 1 matches paths by prefix, serves files without being told, and runs
//! its directives in an order of its own; where that order matters, a `route` block keeps it. What has no counterpart is refused.

use crate::routes::caddyfile::{Address, Directive, Error, Position, Scheme, Site, Word};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Requests wait so long for a container that is away, as in a redeploy. Longer outages show the maintenance page.
pub const HOLD: &str = "30s";
const RETRY: &str = "100ms";

/// Only Caddy 1 has these.
const ONE: [&str; 22] = [
    "browse",
    "errors",
    "expvar",
    "ext",
    "fastcgi",
    "gzip",
    "index",
    "internal",
    "limits",
    "markdown",
    "mime",
    "on",
    "pprof",
    "proxy",
    "realip",
    "request_id",
    "shutdown",
    "startup",
    "status",
    "timeouts",
    "websocket",
    "cgi",
];

/// The standard directives of Caddy 2, except those that reach beyond the site: `import` reads files, `invoke` needs what other sites define.
const TWO: [&str; 42] = [
    "abort",
    "acme_server",
    "basic_auth",
    "basicauth",
    "bind",
    "copy_response",
    "copy_response_headers",
    "encode",
    "error",
    "file_server",
    "forward_auth",
    "fs",
    "handle",
    "handle_errors",
    "handle_path",
    "handle_response",
    "header",
    "intercept",
    "log",
    "log_append",
    "log_name",
    "log_skip",
    "map",
    "method",
    "metrics",
    "php_fastcgi",
    "push",
    "redir",
    "request_body",
    "request_header",
    "respond",
    "reverse_proxy",
    "rewrite",
    "root",
    "route",
    "skip_log",
    "templates",
    "tls",
    "tracing",
    "try_files",
    "uri",
    "vars",
];

/// Directives whose block holds directives.
const NESTING: [&str; 5] = ["handle", "handle_errors", "handle_path", "handle_response", "route"];

/// Completes the sites of one `CADDYFILE`; answers what was left out because Caddy 2 does it otherwise.
pub fn complete_two(sites: &mut Vec<Site>) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    let one = sites.iter().flat_map(|site| &site.body).any(is_one);
    split(sites);
    for site in sites {
        let at = site.addresses.first().map_or_else(Position::default, |w| w.at);
        refuse_environment(&site.addresses)?;
        if one {
            upgrade(site, &mut notes)?;
        }
        check(&site.body)?;
        let http = site.plain_http();
        hold(&mut site.body, http);
        if !uses(&site.body, "encode") {
            site.body.push(Directive::new(&["encode", "gzip"], at));
        }
        site.body.retain(|line| line.name() != "log");
        let lines = [["output", "stdout"], ["format", "json"]];
        let lines = lines.map(|words| Directive::new(&words, at));
        site.body.push(Directive::new(&["log"], at).with(lines.into()));
    }
    Ok(notes)
}

/// Splits sites that have addresses with and without TLS: haproxy speaks for the client in one case and passes the client's own words on in
/// the other, so that not both can be believed.
fn split(sites: &mut Vec<Site>) {
    for site in std::mem::take(sites) {
        let plain = |word: &Word| Address::parse(&word.text).is_ok_and(|address| address.served().0 == Scheme::Http);
        let Site { addresses, body } = site;
        let (http, https): (Vec<Word>, Vec<Word>) = addresses.into_iter().partition(plain);
        let body_of = |addresses: Vec<Word>| Site { addresses, body: body.clone() };
        sites.extend([http, https].into_iter().filter(|addresses| !addresses.is_empty()).map(body_of));
    }
}

/// Whether only Caddy 1 reads this.
fn is_one(line: &Directive) -> bool {
    let arguments: Vec<&str> = line.arguments().collect();
    match (line.name(), arguments.as_slice()) {
        (name, _) if ONE.contains(&name) => true,
        ("root", [path]) => path.starts_with('/'),
        ("log", [path, ..]) => path.starts_with('/'),
        ("tls", [mode]) => matches!(*mode, "off" | "self_signed"),
        ("basicauth", [.., algorithm, _]) => !matches!(*algorithm, "bcrypt" | "scrypt") && !is_two(line),
        ("redir" | "rewrite", _) => line.block.is_some(),
        _ => false,
    }
}

/// Whether its first argument is one of Caddy 2's matchers, so that it is no Caddy 1 line.
fn is_two(line: &Directive) -> bool {
    let first = line.arguments().next();
    first.is_some_and(|first| first == "*" || first.starts_with('@')) || line.name().starts_with('@')
}

fn refuse_environment(words: &[Word]) -> Result<(), Error> {
    match words.iter().find(|word| word.text.contains("{$")) {
        Some(word) => {
            let problem = format!("{:?}: the proxy's own environment cannot be used", word.text);
            Err(Error::new(word.at, problem))
        }
        None => Ok(()),
    }
}

/// Known words only: an unknown one would make the whole file invalid.
fn check(lines: &[Directive]) -> Result<(), Error> {
    fn environment(lines: &[Directive]) -> Result<(), Error> {
        lines.iter().try_for_each(|line| {
            refuse_environment(&line.words)?;
            environment(line.lines())
        })
    }
    environment(lines)?;
    for line in lines {
        let name = line.name();
        if name == "import" {
            let problem = "`import` is refused: an application's routes stand in its own CADDYFILE";
            return Err(Error::new(line.at(), problem));
        }
        if !name.starts_with('@') && !TWO.contains(&name) {
            return Err(Error::new(line.at(), format!("{name:?} is no directive of Caddy 2")));
        }
        if NESTING.contains(&name) {
            check(line.lines())?;
        }
    }
    Ok(())
}

fn uses(lines: &[Directive], name: &str) -> bool {
    lines.iter().any(|line| line.name() == name || NESTING.contains(&line.name()) && uses(line.lines(), name))
}

/// Lets proxies hold requests while the container is away, and believe haproxy about the client where it is haproxy that spoke HTTP with it.
fn hold(lines: &mut [Directive], http: bool) {
    for line in lines {
        let at = line.at();
        if matches!(line.name(), "reverse_proxy" | "php_fastcgi") {
            let block = line.block.get_or_insert_default();
            let mut add = |words: &[&str]| {
                if block.iter().all(|line| line.name() != words[0]) {
                    block.push(Directive::new(words, at));
                }
            };
            if http {
                add(&["trusted_proxies", "private_ranges"]);
            }
            add(&["lb_try_duration", HOLD]);
            add(&["lb_try_interval", RETRY]);
        } else if NESTING.contains(&line.name()) {
            hold(line.block.as_deref_mut().unwrap_or_default(), http);
        }
    }
}

/// What a Caddy 1 site becomes, in the order in which Caddy 1 runs its directives.
#[derive(Default)]
struct Upgraded {
    /// Matchers and what Caddy 2 needs outside a `route`.
    first: Vec<Directive>,
    rewrites: Vec<Directive>,
    headers: Vec<Directive>,
    credentials: Vec<Credential>,
    redirections: Vec<Directive>,
    statuses: Vec<Directive>,
    proxies: Vec<Proxy>,
    rest: Vec<Directive>,
    matchers: usize,
    /// `file_server`'s block, if files are served.
    files: Option<Vec<Directive>>,
    browse: Option<Position>,
}

/// One user for one path.
struct Credential {
    path: String,
    header: String,
    at: Position,
}

#[derive(Default)]
struct Proxy {
    at: Position,
    from: String,
    to: Vec<String>,
    /// Of all upstreams: what their paths begin with.
    base: String,
    without: Option<String>,
    except: Vec<String>,
    lines: Vec<Directive>,
    transport: Vec<Directive>,
}

fn upgrade(site: &mut Site, notes: &mut Vec<String>) -> Result<(), Error> {
    let http = site.plain_http();
    let mut up = Upgraded::default();
    for line in &site.body {
        refuse_environment(&line.words)?;
        for line in line.lines() {
            refuse_environment(&line.words)?;
        }
        up.line(line, http, notes)?;
    }
    for word in &mut site.addresses {
        // a path was a prefix
        let path = Address::parse(&word.text).map(|address| address.path.len());
        let path = path.unwrap_or_default();
        if path == 1 {
            word.text.pop();
        } else if path > 1 && !word.text.ends_with('*') {
            word.text.push('*');
        }
    }
    site.body = up.body();
    Ok(())
}

impl Upgraded {
    fn line(&mut self, line: &Directive, http: bool, notes: &mut Vec<String>) -> Result<(), Error> {
        let at = line.at();
        let arguments = &line.words[1.min(line.words.len())..];
        let texts: Vec<&str> = line.arguments().collect();
        if is_two(line) && TWO.contains(&line.name()) || line.name().starts_with('@') {
            self.first.push(line.clone());
            return Ok(());
        }
        match (line.name(), texts.as_slice()) {
            ("proxy", _) => {
                let proxy = Proxy::read(line, http)?;
                self.proxies.push(proxy);
            }
            ("gzip", []) => self.gzip(line)?,
            // Caddy 2 writes errors to its own log
            ("errors", _) if line.lines().is_empty() => {}
            // always replaced
            ("log", _) => {}
            ("timeouts", _) => notes.push(format!("line {}: timeouts are left out: Caddy 2 has them for all sites together", at.line)),
            ("limits", _) => self.limits(line, notes)?,
            ("root", [path]) => {
                self.first.push(Directive::new(&["root", "*", path], at));
                self.files.get_or_insert_default();
            }
            ("index", [_, ..]) => {
                let files = self.files.get_or_insert_default();
                files.push(line.clone());
            }
            ("browse", [] | ["/"]) if line.block.is_none() => {
                self.files.get_or_insert_default();
                self.browse = Some(at);
            }
            ("ext", [_, ..]) => {
                let mut words = vec!["try_files".into(), "{path}".into()];
                words.extend(texts.iter().map(|ext| format!("{{path}}{ext}")));
                self.rewrites.push(Directive::new(&words, at));
                self.files.get_or_insert_default();
            }
            ("rewrite", _) => self.rewrite(line)?,
            ("header", [path, rest @ ..]) => {
                let mut words = vec![Word::new("header", at)];
                words.extend(prefix(path, arguments[0].at)?.map(|path| Word::new(path, at)));
                for word in &arguments[1..] {
                    words.push(placeholders(word, 0)?);
                }
                let block = match (rest.is_empty(), &line.block) {
                    (true, Some(lines)) if !lines.is_empty() => Some(converted(lines)?),
                    (false, None) => None,
                    _ => return needs(at, "header PATH NAME VALUE"),
                };
                self.headers.push(Directive { words, block });
            }
            ("mime", _) => self.mime(line)?,
            ("basicauth", _) => self.basicauth(line)?,
            ("redir", _) => self.redir(line)?,
            ("status", [code, ..]) => {
                let mut paths: Vec<&Word> = arguments[1..].iter().collect();
                paths.extend(line.lines().iter().flat_map(|line| &line.words));
                if code.parse::<u16>().is_err() || paths.is_empty() {
                    return needs(at, "status CODE PATH");
                }
                for path in paths {
                    let mut words = vec!["respond".to_string()];
                    words.extend(prefix(&path.text, path.at)?);
                    words.push(code.to_string());
                    self.statuses.push(Directive::new(&words, at));
                }
            }
            ("fastcgi", _) => self.fastcgi(line)?,
            ("tls", _) => self.tls(line)?,
            (name, _) if ONE.contains(&name) || matches!(name, "templates" | "push") => {
                let problem = format!("{name:?} of Caddy 1 cannot be upgraded as it stands; write it in the words of Caddy 2");
                return Err(Error::new(at, problem));
            }
            (name, _) if TWO.contains(&name) => self.first.push(line.clone()),
            (name, _) => {
                let problem = format!("{name:?} is no directive of Caddy 2 and cannot be upgraded");
                return Err(Error::new(at, problem));
            }
        }
        Ok(())
    }

    fn matcher(&mut self, lines: Vec<Directive>, at: Position) -> String {
        self.matchers += 1;
        let name = format!("@m{}", self.matchers);
        self.first.push(Directive::new(&[&name], at).with(lines));
        name
    }

    fn gzip(&mut self, line: &Directive) -> Result<(), Error> {
        let at = line.at();
        let mut words = vec!["encode".to_string()];
        let mut block = Vec::new();
        for line in line.lines() {
            let texts: Vec<&str> = line.arguments().collect();
            match (line.name(), texts.as_slice()) {
                ("level", [level]) => block.push(Directive::new(&["gzip", level], line.at())),
                ("min_length", [length]) => {
                    block.push(Directive::new(&["minimum_length", length], line.at()));
                }
                ("not", [_, ..]) => {
                    let mut not = vec!["not".to_string(), "path".to_string()];
                    for word in &line.words[1..] {
                        not.push(prefix(&word.text, word.at)?.unwrap_or_else(|| "*".into()));
                    }
                    let not = Directive::new(&not, line.at());
                    words.push(self.matcher(vec![not], line.at()));
                }
                _ => return unknown(line, "gzip"),
            }
        }
        let mut encode = Directive::new(&words, at);
        if block.is_empty() {
            encode.words.push(Word::new("gzip", at));
        } else {
            if block.iter().all(|line| line.name() != "gzip") {
                block.push(Directive::new(&["gzip"], at));
            }
            encode.block = Some(block);
        }
        self.first.push(encode);
        Ok(())
    }

    fn limits(&mut self, line: &Directive, notes: &mut Vec<String>) -> Result<(), Error> {
        let at = line.at();
        let size = |size: &str| vec![Directive::new(&["max_size", size], at)];
        let own: Vec<&str> = line.arguments().collect();
        match own.as_slice() {
            [] => {}
            [all] => {
                self.first.push(Directive::new(&["request_body"], at).with(size(all)));
            }
            _ => return needs(at, "limits SIZE"),
        }
        for line in line.lines() {
            let texts: Vec<&str> = line.arguments().collect();
            let mut words = vec!["request_body".to_string()];
            match (line.name(), texts.as_slice()) {
                ("header", [_]) => {
                    notes.push(format!("line {}: the limit for headers is left out: Caddy 2 has it for all sites together", line.at().line))
                }
                ("body", [bytes]) => {
                    self.first.push(Directive::new(&words, at).with(size(bytes)));
                }
                ("body", [path, bytes]) => {
                    words.extend(prefix(path, line.at())?);
                    self.first.push(Directive::new(&words, at).with(size(bytes)));
                }
                _ => return unknown(line, "limits"),
            }
        }
        Ok(())
    }

    fn rewrite(&mut self, line: &Directive) -> Result<(), Error> {
        let at = line.at();
        let arguments = &line.words[1..];
        if line.block.is_none() {
            let [from, to] = arguments else {
                return needs(at, "rewrite PATTERN PATH");
            };
            return self.rewrite_pattern(None, from, to, at);
        }
        let (mut pattern, mut to) = (None, Vec::new());
        for line in line.lines() {
            match (line.name(), &line.words[1..]) {
                ("r" | "regexp", [word]) => pattern = Some(word),
                ("to", words @ [_, ..]) => to = words.iter().collect(),
                _ => return unknown(line, "rewrite"),
            }
        }
        let base = match arguments {
            [] => None,
            [base] => prefix(&base.text, base.at)?,
            _ => return needs(at, "rewrite [PATH] {"),
        };
        match (pattern, to.as_slice()) {
            (Some(pattern), [to]) => self.rewrite_pattern(base, pattern, to, at),
            (None, [_, ..]) => {
                let mut words = vec![Word::new("try_files", at)];
                words.extend(base.map(|base| Word::new(base, at)));
                for word in to {
                    words.push(placeholders(word, 0)?);
                }
                self.rewrites.push(Directive { words, block: None });
                Ok(())
            }
            _ => needs(at, "a pattern with one `to`, or only `to` in the block of rewrite"),
        }
    }

    fn rewrite_pattern(&mut self, base: Option<String>, pattern: &Word, to: &Word, at: Position) -> Result<(), Error> {
        if !to.text.starts_with('/') && !to.text.starts_with('{') {
            return Err(Error::new(to.at, format!("expected a path, found {:?}", to.text)));
        }
        let group = format!("m{}", self.matchers + 1);
        let to = placeholders(to, self.matchers + 1)?.text;
        let mut lines = vec![Directive::new(&["path_regexp", &group, &pattern.text], at)];
        lines.extend(base.map(|base| Directive::new(&["path", &base], at)));
        let matcher = self.matcher(lines, at);
        self.rewrites.push(Directive::new(&["rewrite", &matcher, &to], at));
        Ok(())
    }

    fn mime(&mut self, line: &Directive) -> Result<(), Error> {
        let mut add = |words: &[Word]| match words {
            [ext, kind] if ext.text.starts_with('.') => {
                let path = format!("*{}", ext.text);
                let path = Directive::new(&["path", &path], ext.at);
                let matcher = self.matcher(vec![path], ext.at);
                let words = ["header", &matcher, "Content-Type", &kind.text];
                self.headers.push(Directive::new(&words, ext.at));
                Ok(())
            }
            _ => needs(line.at(), "mime .EXTENSION TYPE"),
        };
        match &line.block {
            None => add(&line.words[1..]),
            Some(lines) => lines.iter().try_for_each(|line| add(&line.words)),
        }
    }

    /// Caddy 2 wants hashes that nobody can make here from the password, so that the header itself is compared.
    fn basicauth(&mut self, line: &Directive) -> Result<(), Error> {
        let at = line.at();
        let mut paths = Vec::new();
        let (user, password) = match (&line.words[1..], &line.block) {
            ([path, user, password], None) => {
                paths.push(path);
                (user, password)
            }
            ([user, password], Some(lines)) => {
                for line in lines {
                    match line.words.as_slice() {
                        // shown in the browser's question only
                        [realm, _] if realm.text == "realm" => {}
                        [path] => paths.push(path),
                        _ => return unknown(line, "basicauth"),
                    }
                }
                (user, password)
            }
            _ => return needs(at, "basicauth PATH USER PASSWORD"),
        };
        if paths.is_empty() {
            return needs(at, "basicauth PATH USER PASSWORD");
        }
        if password.text.starts_with("htpasswd=") {
            let problem = "a password file cannot be read from the application; write the password";
            return Err(Error::new(password.at, problem));
        }
        let header = format!("{}:{}", user.text, password.text);
        let header = format!("Basic {}", STANDARD.encode(header));
        for path in paths {
            prefix(&path.text, path.at)?;
            self.credentials.push(Credential { path: path.text.clone(), header: header.clone(), at });
        }
        Ok(())
    }

    fn redir(&mut self, line: &Directive) -> Result<(), Error> {
        let at = line.at();
        let is_code = |word: &Word| word.text.len() == 3 && word.text.starts_with('3');
        let mut add = |words: &[Word], default: &str| {
            let (from, to, code) = match words {
                [to] => (None, to, default),
                [to, code] if is_code(code) => (None, to, code.text.as_str()),
                [from, to] => (Some(from), to, default),
                [from, to, code] if is_code(code) => (Some(from), to, code.text.as_str()),
                _ => return needs(at, "redir [PATH] URL [CODE]"),
            };
            let mut out = vec![Word::new("redir", at)];
            match from.filter(|from| from.text != "/") {
                Some(from) => {
                    prefix(&from.text, from.at)?;
                    out.push(from.clone());
                }
                None if to.text.starts_with('/') => out.push(Word::new("*", at)),
                None => {}
            }
            out.push(placeholders(to, 0)?);
            out.push(Word::new(code, at));
            self.redirections.push(Directive { words: out, block: None });
            Ok(())
        };
        let Some(lines) = &line.block else {
            return add(&line.words[1..], "301");
        };
        let default = match &line.words[1..] {
            [] => "301",
            [code] if is_code(code) => &code.text,
            _ => return needs(at, "redir [CODE] {"),
        };
        for line in lines {
            if matches!(line.name(), "if" | "if_op") {
                return unknown(line, "redir");
            }
            add(&line.words, default)?;
        }
        Ok(())
    }

    fn fastcgi(&mut self, line: &Directive) -> Result<(), Error> {
        let at = line.at();
        let (path, to) = match &line.words[1..] {
            [path, to, preset] if preset.text == "php" => (path, to),
            _ => return needs(at, "fastcgi PATH ADDRESS php"),
        };
        let mut block = Vec::new();
        for line in line.lines() {
            let name = match line.name() {
                name @ ("root" | "index" | "split" | "env" | "read_timeout") => name,
                "connect_timeout" => "dial_timeout",
                "send_timeout" => "write_timeout",
                "ext" => continue,
                _ => return unknown(line, "fastcgi"),
            };
            let mut words = vec![Word::new(name, line.at())];
            for word in &line.words[1..] {
                words.push(placeholders(word, 0)?);
            }
            block.push(Directive { words, block: None });
        }
        let mut words = vec!["php_fastcgi".to_string()];
        words.extend(prefix(&path.text, path.at)?);
        words.push(match to.text.strip_prefix("unix:") {
            Some(path) => format!("unix/{path}"),
            None => to.text.clone(),
        });
        let php = Directive::new(&words, at);
        self.rest.push(if block.is_empty() { php } else { php.with(block) });
        self.files.get_or_insert_default();
        Ok(())
    }

    fn tls(&mut self, line: &Directive) -> Result<(), Error> {
        let texts: Vec<&str> = line.arguments().collect();
        match texts.as_slice() {
            ["off"] => {
                let problem = "`tls off`: write the site's address with http://";
                return Err(Error::new(line.at(), problem));
            }
            ["self_signed"] => {
                let mut line = line.clone();
                line.words[1].text = "internal".into();
                self.first.push(line);
                return Ok(());
            }
            _ => {}
        }
        let known = ["protocols", "ca", "ciphers", "curves", "alpn", "load", "dns"];
        match line.lines().iter().find(|line| !known.contains(&line.name())) {
            Some(line) => unknown(line, "tls"),
            None => {
                self.first.push(line.clone());
                Ok(())
            }
        }
    }

    /// Puts the parts together.
    fn body(mut self) -> Vec<Directive> {
        // longest first, as Caddy 1 chooses
        self.proxies.sort_by_key(|proxy| std::cmp::Reverse(proxy.from.len()));
        let nested = self.proxies.iter().any(|p| p.without.is_some() || !p.base.is_empty());
        let matched = |line: &Directive| line.words.len() > 3 || line.block.is_some();
        let ordered = !self.credentials.is_empty()
            || nested && !self.statuses.is_empty()
            || !self.rewrites.is_empty() && (!self.redirections.is_empty() || self.headers.iter().any(matched));
        let mut run = std::mem::take(&mut self.rewrites);
        run.append(&mut self.headers);
        run.extend(self.credentials());
        run.append(&mut self.redirections);
        run.append(&mut self.statuses);
        for proxy in std::mem::take(&mut self.proxies) {
            let line = proxy.written(&mut self, nested);
            run.push(line);
        }
        run.append(&mut self.rest);
        if let Some(block) = self.files.take() {
            let at = block.first().map_or_else(Position::default, Directive::at);
            let mut words = vec!["file_server"];
            words.extend(self.browse.map(|_| "browse"));
            let line = Directive::new(&words, at);
            run.push(if block.is_empty() { line } else { line.with(block) });
        }
        let mut body = self.first;
        if ordered {
            let at = run.first().map_or_else(Position::default, Directive::at);
            body.push(Directive::new(&["route"], at).with(run));
        } else {
            body.append(&mut run);
        }
        body
    }

    /// For each protected path a refusal of those who are neither allowed there nor in a path above it.
    fn credentials(&mut self) -> Vec<Directive> {
        let all = std::mem::take(&mut self.credentials);
        let mut done: Vec<&str> = Vec::new();
        let mut lines = Vec::new();
        for Credential { path, at, .. } in &all {
            if done.contains(&path.as_str()) {
                continue;
            }
            done.push(path);
            let new = |words: Vec<String>| Directive::new(&words, *at);
            let mut matcher = vec![new(vec!["path".into(), format!("{path}*")])];
            for other in &all {
                let below = other.path.len() > path.len() && other.path.starts_with(path);
                let line = new(vec!["not".into(), "path".into(), format!("{}*", other.path)]);
                if below && !matcher.contains(&line) {
                    matcher.push(line);
                }
                if path.starts_with(&other.path) {
                    let words = ["not", "header", "Authorization", &other.header];
                    matcher.push(Directive::new(&words, *at));
                }
            }
            let matcher = self.matcher(matcher, *at);
            let refuse = [
                Directive::new(&["header", "WWW-Authenticate", "Basic realm=\"Restricted\""], *at),
                Directive::new(&["respond", "401"], *at),
            ];
            lines.push(Directive::new(&["route", &matcher], *at).with(refuse.into()));
        }
        lines
    }
}

impl Proxy {
    fn read(line: &Directive, http: bool) -> Result<Proxy, Error> {
        let at = line.at();
        let mut proxy = Proxy { at, ..Proxy::default() };
        let [from, to @ ..] = &line.words[1..] else {
            return needs(at, "proxy PATH UPSTREAM");
        };
        prefix(&from.text, from.at)?;
        proxy.from = from.text.clone();
        let mut upstreams: Vec<&Word> = to.iter().collect();
        let mut real_ip = !http;
        for line in line.lines() {
            let arguments = &line.words[1..];
            let texts: Vec<&str> = line.arguments().collect();
            let mut add = |words: &[&str]| proxy.lines.push(Directive::new(words, line.at()));
            match (line.name(), texts.as_slice()) {
                // what Caddy 2 does by itself, and what every upstream with https gets
                ("websocket" | "transparent" | "insecure_skip_verify", []) => {}
                ("preset", ["websocket" | "transparent"]) => {}
                ("header_upstream", [name, value]) if implied(name, value) => {}
                ("header_upstream", [name, ..]) => {
                    real_ip &= !name.eq_ignore_ascii_case("X-Real-IP");
                    proxy.lines.push(renamed("header_up", line)?);
                }
                ("header_downstream", [_, ..]) => proxy.lines.push(renamed("header_down", line)?),
                ("policy", ["random" | "least_conn" | "round_robin" | "first" | "ip_hash" | "uri_hash"]) | ("policy", ["header", _]) => {
                    proxy.lines.push(renamed("lb_policy", line)?)
                }
                ("fail_timeout", [time]) => add(&["fail_duration", time]),
                ("max_fails", [number]) => add(&["max_fails", number]),
                ("max_conns", [number]) => add(&["unhealthy_request_count", number]),
                ("try_duration", [time]) => add(&["lb_try_duration", time]),
                ("try_interval", [time]) => add(&["lb_try_interval", time]),
                ("health_check", [path]) => add(&["health_uri", path]),
                ("health_check_port", [port]) => add(&["health_port", port]),
                ("health_check_interval", [time]) => add(&["health_interval", time]),
                ("health_check_timeout", [time]) => add(&["health_timeout", time]),
                ("health_check_contains", [text]) => add(&["health_body", text]),
                ("keepalive", ["0"]) => proxy.transport.push(Directive::new(&["keepalive", "off"], line.at())),
                ("keepalive", [_]) => proxy.transport.push(renamed("keepalive_idle_conns", line)?),
                ("timeout", [_]) => proxy.transport.push(renamed("dial_timeout", line)?),
                ("fallback_delay", [_]) => proxy.transport.push(renamed("dial_fallback_delay", line)?),
                ("ca_certificates", [_, ..]) => proxy.transport.push(renamed("tls_trusted_ca_certs", line)?),
                ("tls_client", [_, _]) => proxy.transport.push(renamed("tls_client_auth", line)?),
                ("upstream", [_]) => upstreams.extend(arguments),
                ("without", [path]) => {
                    prefix(path, arguments[0].at)?;
                    proxy.without = Some(path.trim_end_matches('/').into());
                }
                ("except", [_, ..]) => {
                    for word in arguments {
                        let path = prefix(&word.text, word.at)?;
                        proxy.except.push(path.unwrap_or_else(|| "*".into()));
                    }
                }
                _ => return unknown(line, "proxy"),
            }
        }
        proxy.without = proxy.without.filter(|path| !path.is_empty());
        if real_ip {
            proxy.lines.push(Directive::new(&["header_up", "X-Real-IP", "{remote_host}"], at));
        }
        let mut schemes = Vec::new();
        for (n, word) in upstreams.iter().enumerate() {
            let (scheme, place, base) = upstream(word)?;
            if n > 0 && (proxy.base != base || !schemes.contains(&scheme)) {
                let problem = "all upstreams of one proxy need the same scheme and path in Caddy 2";
                return Err(Error::new(word.at, problem));
            }
            proxy.base = base;
            proxy.to.push(place);
            schemes.push(scheme);
        }
        if upstreams.is_empty() {
            return needs(at, "proxy PATH UPSTREAM");
        }
        // containers have certificates that nobody knows
        if schemes.contains(&Scheme::Https) {
            let insecure = Directive::new(&["tls_insecure_skip_verify"], at);
            proxy.transport.insert(0, insecure);
        }
        Ok(proxy)
    }

    fn written(self, up: &mut Upgraded, nested: bool) -> Directive {
        let at = self.at;
        let path = (self.from != "/").then(|| format!("{}*", self.from));
        let matcher = match self.except.is_empty() {
            true => path,
            false => {
                let mut not = vec!["not".to_string(), "path".to_string()];
                not.extend(self.except);
                let mut lines: Vec<Directive> = path.iter().map(|path| Directive::new(&["path", path], at)).collect();
                lines.push(Directive::new(&not, at));
                Some(up.matcher(lines, at))
            }
        };
        let mut lines = self.lines;
        if !self.transport.is_empty() {
            lines.push(Directive::new(&["transport", "http"], at).with(self.transport));
        }
        let mut words = vec!["reverse_proxy".to_string()];
        if !nested {
            words.extend(matcher.clone());
        }
        words.extend(self.to);
        let proxy = Directive::new(&words, at).with(lines);
        if !nested {
            return proxy;
        }
        let mut steps = Vec::new();
        if let Some(without) = &self.without {
            steps.push(Directive::new(&["uri", "strip_prefix", without], at));
        }
        if !self.base.is_empty() {
            let to = format!("{}{{uri}}", self.base);
            steps.push(Directive::new(&["rewrite", "*", &to], at));
        }
        // Caddy 2 would rewrite before it strips
        let both = steps.len() == 2;
        steps.push(proxy);
        if both {
            steps = vec![Directive::new(&["route"], at).with(steps)];
        }
        let mut words = vec!["handle".to_string()];
        words.extend(matcher);
        Directive::new(&words, at).with(steps)
    }
}

/// Scheme, address for Caddy 2, and the path that all requests get in front.
fn upstream(word: &Word) -> Result<(Scheme, String, String), Error> {
    let text = &word.text;
    let fail = |problem: &str| Err(Error::new(word.at, format!("{text:?}: {problem}")));
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok((Scheme::Http, format!("unix/{path}"), String::new()));
    }
    let (scheme, rest) = match text.split_once("://") {
        None | Some(("http", _)) => (Scheme::Http, "http"),
        Some(("https", _)) => (Scheme::Https, "https"),
        Some(_) => return fail("expected http://, https:// or unix:"),
    };
    let place = text.split_once("://").map_or(text.as_str(), |(_, place)| place);
    let (place, base) = place.split_at(place.find('/').unwrap_or(place.len()));
    if place.is_empty() || place.contains(['{', '}']) {
        return fail("expected host:port");
    }
    if let Some((_, port)) = place.rsplit_once(':')
        && !place.ends_with(']')
        && port.parse::<u16>().is_err()
    {
        return fail("expected one port (ranges cannot be upgraded)");
    }
    let base = base.trim_end_matches('/').to_string();
    Ok((scheme, format!("{rest}://{place}"), base))
}

/// Headers that Caddy 2, or haproxy in front of it, sets by itself.
fn implied(name: &str, value: &str) -> bool {
    let (name, value) = (name.to_ascii_lowercase(), value);
    matches!(
        (name.as_str(), value),
        ("host", "{host}" | "{hostonly}" | "{>Host}")
            | ("x-forwarded-for", "{remote}" | "{>X-Forwarded-For}")
            | ("x-forwarded-proto", "{scheme}" | "{>X-Forwarded-Proto}")
            | ("x-forwarded-host", "{host}")
            | ("x-real-ip", "{remote}")
            | ("connection", "{>Connection}")
            | ("upgrade", "{>Upgrade}")
    )
}

/// Caddy 1's path, which matches what begins with it, as a matcher; `None` for all paths.
fn prefix(path: &str, at: Position) -> Result<Option<String>, Error> {
    match path {
        "/" => Ok(None),
        _ if !path.starts_with('/') || path.contains(['{', '}', '"']) => Err(Error::new(at, format!("expected a path, found {path:?}"))),
        _ if path.ends_with('*') => Ok(Some(path.into())),
        _ => Ok(Some(format!("{path}*"))),
    }
}

fn converted(lines: &[Directive]) -> Result<Vec<Directive>, Error> {
    let line = |line: &Directive| {
        let words = line.words.iter().map(|word| placeholders(word, 0));
        let words = words.collect::<Result<_, _>>()?;
        Ok(Directive { words, block: None })
    };
    lines.iter().map(line).collect()
}

fn renamed(name: &str, line: &Directive) -> Result<Directive, Error> {
    let mut line = converted(std::slice::from_ref(line))?.remove(0);
    line.words[0].text = name.into();
    Ok(line)
}

/// The word with Caddy 1's placeholders as Caddy 2's. `{1}` is a part of what the pattern of matcher `group` matched; 0 for none.
fn placeholders(word: &Word, group: usize) -> Result<Word, Error> {
    let mut out = String::with_capacity(word.text.len());
    let mut rest = word.text.as_str();
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else {
            break;
        };
        let name = &rest[open + 1..open + close];
        out.push_str(&rest[..open]);
        let (kind, of) = name.split_at(name.chars().next().map_or(0, char::len_utf8));
        match (name, kind) {
            ("path" | "query" | "method" | "scheme" | "uri", _) => out.push_str(&format!("{{{name}}}")),
            ("host", _) => out.push_str("{hostport}"),
            ("hostonly", _) => out.push_str("{host}"),
            ("remote", _) => out.push_str("{remote_host}"),
            ("port", _) => out.push_str("{remote_port}"),
            ("server_port", _) => out.push_str("{port}"),
            ("dir" | "file", _) => out.push_str(&format!("{{{name}}}")),
            ("proto", _) => out.push_str("{http.request.proto}"),
            ("user", _) => out.push_str("{http.auth.user.id}"),
            ("rewrite_path", _) => out.push_str("{path}"),
            ("rewrite_uri", _) => out.push_str("{uri}"),
            ("hostname", _) => out.push_str("{system.hostname}"),
            ("request_id", _) => out.push_str("{http.request.uuid}"),
            (_, ">") if !of.is_empty() => out.push_str(&format!("{{header.{of}}}")),
            (_, "~") if !of.is_empty() => out.push_str(&format!("{{cookie.{of}}}")),
            (_, "?") if !of.is_empty() => out.push_str(&format!("{{query.{of}}}")),
            _ if group > 0 && name.parse::<u8>().is_ok() => {
                out.push_str(&format!("{{re.m{group}.{name}}}"));
            }
            // already Caddy 2's
            _ if name.contains('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) => {
                out.push_str(&format!("{{{name}}}"));
            }
            _ => {
                let problem = format!("the placeholder {{{name}}} cannot be upgraded to Caddy 2");
                return Err(Error::new(word.at, problem));
            }
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    Ok(Word::new(out, word.at))
}

fn unknown<T>(line: &Directive, within: &str) -> Result<T, Error> {
    let problem = format!("{:?} in {within} of Caddy 1 cannot be upgraded to Caddy 2", line.name());
    Err(Error::new(line.at(), problem))
}

fn needs<T>(at: Position, what: &str) -> Result<T, Error> {
    Err(Error::new(at, format!("expected {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::caddyfile::{dump, parse};

    fn upgraded(text: &str) -> Result<String, String> {
        let mut sites = parse(text).map_err(|error| error.to_string())?;
        complete_two(&mut sites).map_err(|error| error.to_string())?;
        Ok(dump(&sites))
    }

    /// Name, sites as an application writes them, what becomes of them.
    fn cases() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        include_str!("../../tests/vectors/caddy2.txt").split("=== ").skip(1).map(|case| {
            let (name, case) = case.split_once('\n').unwrap();
            let (input, output) = case.split_once("\n---\n").unwrap();
            (name, input, output.trim_end())
        })
    }

    #[test]
    fn vectors() {
        let mut now = String::new();
        let mut same = true;
        for (name, input, expected) in cases() {
            let output = upgraded(input).unwrap_or_else(|error| error);
            same &= output == expected;
            now.push_str(&format!("=== {name}\n{input}\n---\n{output}\n"));
            // what is written is Caddy 2's, and stays as it is
            if !name.starts_with("refused-") {
                assert_eq!(upgraded(&output).as_deref(), Ok(output.as_str()), "{name}");
            }
        }
        let file = std::env::temp_dir().join("caddy2.txt");
        if !same {
            std::fs::write(&file, now).unwrap();
        }
        assert!(same, "tests/vectors/caddy2.txt differs from {}", file.display());
    }

    #[test]
    fn real_caddy_accepts_every_output() {
        let sites = cases().filter(|(name, ..)| !name.starts_with("refused-")).map(|(.., output)| output);
        let sites: Vec<&str> = sites.collect();
        assert!(sites.len() > 40);
        let text = sites.join("\n").replace("/ca.pem", "/etc/ssl/certs/ca-certificates.crt");
        let text = format!("{{\n    admin off\n}}\n{text}\n");
        crate::proxies::render::tests::accepted(&["caddy", "validate", "--adapter", "caddyfile", "--config"], &text);
    }
}
