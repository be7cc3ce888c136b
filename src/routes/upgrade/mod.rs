//! A site of Caddy 1 in the words of Caddy 2. Pure.
//!
//! Differences that shape what is written: Caddy 1 matches paths by prefix, serves files without being told, and runs its directives in
//! an order of its own; where that order matters, a `route` block keeps it. What has no counterpart is refused.

mod proxy;
mod words;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::proxy::Proxied;
use self::words::{First, converted, needs, placeholders, prefix, unknown};
use super::address::SiteAddress;
use super::caddyfile::{Directive, Position, Site, Word};
use super::directives::{Error, ONE, Problem, TWO, has_matcher, refuse_environment, refused};

/// What a Caddy 1 site becomes, in the order in which Caddy 1 runs its directives.
#[derive(Default)]
struct Upgraded {
    first: First,
    rewrites: Vec<Directive>,
    headers: Vec<Directive>,
    credentials: Vec<Credential>,
    redirections: Vec<Directive>,
    statuses: Vec<Directive>,
    proxies: Vec<Proxied>,
    rest: Vec<Directive>,
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

/// What Caddy 2 does otherwise is left out, and noted.
pub fn upgrade(site: &mut Site, notes: &mut Vec<String>) -> Result<(), Error> {
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
        let path = SiteAddress::parse(&word.text).map(|address| address.path.len());
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
        if has_matcher(line) && TWO.contains(&line.name()) || line.name().starts_with('@') {
            self.first.lines.push(line.clone());
            return Ok(());
        }
        match (line.name(), texts.as_slice()) {
            ("proxy", _) => {
                let proxy = Proxied::read(line, http)?;
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
                self.first.lines.push(Directive::new(&["root", "*", path], at));
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
                return refused(at, Problem::NotUpgradable { name: name.into() });
            }
            (name, _) if TWO.contains(&name) => self.first.lines.push(line.clone()),
            (name, _) => return refused(at, Problem::UnknownToBoth { name: name.into() }),
        }
        Ok(())
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
                    words.push(self.first.matcher(vec![not], line.at()));
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
        self.first.lines.push(encode);
        Ok(())
    }

    fn limits(&mut self, line: &Directive, notes: &mut Vec<String>) -> Result<(), Error> {
        let at = line.at();
        let size = |size: &str| vec![Directive::new(&["max_size", size], at)];
        let own: Vec<&str> = line.arguments().collect();
        match own.as_slice() {
            [] => {}
            [all] => {
                self.first.lines.push(Directive::new(&["request_body"], at).with(size(all)));
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
                    self.first.lines.push(Directive::new(&words, at).with(size(bytes)));
                }
                ("body", [path, bytes]) => {
                    words.extend(prefix(path, line.at())?);
                    self.first.lines.push(Directive::new(&words, at).with(size(bytes)));
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
            return refused(to.at, Problem::NoPath { text: to.text.clone() });
        }
        let group = format!("m{}", self.first.number());
        let to = placeholders(to, self.first.number())?.text;
        let mut lines = vec![Directive::new(&["path_regexp", &group, &pattern.text], at)];
        lines.extend(base.map(|base| Directive::new(&["path", &base], at)));
        let matcher = self.first.matcher(lines, at);
        self.rewrites.push(Directive::new(&["rewrite", &matcher, &to], at));
        Ok(())
    }

    fn mime(&mut self, line: &Directive) -> Result<(), Error> {
        let mut add = |words: &[Word]| match words {
            [ext, kind] if ext.text.starts_with('.') => {
                let path = format!("*{}", ext.text);
                let path = Directive::new(&["path", &path], ext.at);
                let matcher = self.first.matcher(vec![path], ext.at);
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
            return refused(password.at, Problem::PasswordFile);
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
            ["off"] => return refused(line.at(), Problem::TlsOff),
            ["self_signed"] => {
                let mut line = line.clone();
                line.words[1].text = "internal".into();
                self.first.lines.push(line);
                return Ok(());
            }
            _ => {}
        }
        let known = ["protocols", "ca", "ciphers", "curves", "alpn", "load", "dns"];
        match line.lines().iter().find(|line| !known.contains(&line.name())) {
            Some(line) => unknown(line, "tls"),
            None => {
                self.first.lines.push(line.clone());
                Ok(())
            }
        }
    }

    /// Puts the parts together.
    fn body(mut self) -> Vec<Directive> {
        // longest first, as Caddy 1 chooses
        self.proxies.sort_by_key(|proxy| std::cmp::Reverse(proxy.from.len()));
        let nested = self.proxies.iter().any(Proxied::is_nested);
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
            let line = proxy.written(&mut self.first, nested);
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
        let mut body = self.first.lines;
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
            let matcher = self.first.matcher(matcher, *at);
            let refuse = [
                Directive::new(&["header", "WWW-Authenticate", "Basic realm=\"Restricted\""], *at),
                Directive::new(&["respond", "401"], *at),
            ];
            lines.push(Directive::new(&["route", &matcher], *at).with(refuse.into()));
        }
        lines
    }
}
