//! Caddyfiles: text → sites with positions → text, and the addresses of sites. Pure.
//!
//! The grammar: sites with addresses that commas or spaces separate (a comma may end a line), a body of directives in braces, blocks
//! below directives. `{` ends its line, `}` stands alone. `"` and `'` group words and may span lines, a backslash before the same
//! quote keeps it; backquotes group without that. `#` begins a comment where a word could begin.

use std::fmt::{self, Write};

/// Whose words are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// Both count from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Word {
    pub text: String,
    pub at: Position,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Directive {
    /// At least one.
    pub words: Vec<Word>,
    pub block: Option<Vec<Directive>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Site {
    /// At least one.
    pub addresses: Vec<Word>,
    pub body: Vec<Directive>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    pub at: Position,
    pub problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "line {line}, column {column}: {}", self.problem)
    }
}

impl std::error::Error for Error {}

impl Error {
    pub fn new(at: Position, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        Error { at, problem }
    }
}

impl Word {
    pub fn new(text: impl Into<String>, at: Position) -> Word {
        let text = text.into();
        Word { text, at }
    }
}

impl Directive {
    /// A directive that the handler writes; its words have the position of what caused it.
    pub fn new<S: AsRef<str>>(words: &[S], at: Position) -> Directive {
        let words = words.iter().map(|w| Word::new(w.as_ref(), at)).collect();
        Directive { words, block: None }
    }

    pub fn with(mut self, block: Vec<Directive>) -> Directive {
        self.block = Some(block);
        self
    }

    pub fn name(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    pub fn at(&self) -> Position {
        self.words.first().map_or_else(Position::default, |w| w.at)
    }

    /// The words after the name.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.words.iter().skip(1).map(|word| word.text.as_str())
    }

    pub fn lines(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

impl Site {
    /// Calls `change` with every word, addresses included.
    pub fn each_word(&mut self, change: &mut impl FnMut(&mut String)) {
        fn below(directives: &mut [Directive], change: &mut impl FnMut(&mut String)) {
            for directive in directives {
                directive.words.iter_mut().for_each(|w| change(&mut w.text));
                below(directive.block.as_deref_mut().unwrap_or_default(), change);
            }
        }
        self.addresses.iter_mut().for_each(|w| change(&mut w.text));
        below(&mut self.body, change);
    }

    /// Whether one of its addresses is served without TLS.
    pub fn plain_http(&self) -> bool {
        let addresses = self.addresses.iter();
        let mut addresses = addresses.filter_map(|word| Address::parse(&word.text).ok());
        addresses.any(|address| address.served().0 == Scheme::Http)
    }
}

/// Completes sites in the words of Caddy 1, as clusters that exist have them: what every site gets, and one form of `proxy`.
pub fn complete_one(sites: &mut [Site]) -> Result<(), Error> {
    for site in sites {
        let deep = site.body.iter().flat_map(Directive::lines);
        if let Some(line) = deep.into_iter().find(|line| line.block.is_some()) {
            let problem = "Caddy 1 has no blocks in blocks; Caddy 2 has (CADDY_VERSION=2)";
            return Err(Error::new(line.at(), problem));
        }
        let http = site.plain_http();
        let at = site.addresses.first().map_or_else(Position::default, |w| w.at);
        for proxy in site.body.iter_mut().filter(|line| line.name() == "proxy") {
            let lines: &[&[&str]] = match http {
                // haproxy has set the headers about the client already
                true => &[
                    &["websocket"],
                    &["insecure_skip_verify"],
                    &["header_upstream", "Host", "{host}"],
                    &["header_upstream", "X-Real-IP", "{remote}"],
                    &["header_upstream", "X-Forwarded-Proto", "{scheme}"],
                ],
                false => &[&["websocket"], &["insecure_skip_verify"], &["transparent"]],
            };
            let line = |words: &&[&str]| Directive::new(words, proxy.at());
            proxy.block = Some(lines.iter().map(line).collect());
        }
        for words in [&["gzip"][..], &["timeouts", "300s"]] {
            if site.body.iter().all(|line| line.name() != words[0]) {
                site.body.push(Directive::new(words, at));
            }
        }
        let format = match http {
            true => {
                r#"{hostonly} - {>X-Forwarded-For} - {user} [{when}] "{method} {uri} {proto}" {status} {size} "{>Referer}" "{>User-Agent}""#
            }
            false => "{hostonly} - {combined}",
        };
        site.body.retain(|line| line.name() != "log");
        site.body.push(Directive::new(&["log", "/", "stdout", format], at));
    }
    Ok(())
}

/// Blocks in blocks; far more than any proxy's configuration has.
const MAX_DEPTH: usize = 16;

#[derive(Debug, PartialEq)]
enum Kind {
    Word(String),
    Open,
    Close,
    Comma,
    Newline,
    End,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Word(text) => write!(f, "{text:?}"),
            Kind::Open => f.write_str("`{`"),
            Kind::Close => f.write_str("`}`"),
            Kind::Comma => f.write_str("`,`"),
            Kind::Newline => f.write_str("the end of the line"),
            Kind::End => f.write_str("the end of the text"),
        }
    }
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    at: Position,
}

impl Lexer<'_> {
    fn bump(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    /// The next token. Among addresses commas are tokens, elsewhere they belong to words.
    fn token(&mut self, addresses: bool) -> Result<(Position, Kind), Error> {
        loop {
            let at = self.at;
            match self.rest.peek().copied() {
                None => return Ok((at, Kind::End)),
                Some('\n') => {
                    self.bump();
                    return Ok((at, Kind::Newline));
                }
                Some('#') => while self.rest.next_if(|c| *c != '\n').is_some() {},
                Some(',') if addresses => {
                    self.bump();
                    return Ok((at, Kind::Comma));
                }
                Some(quote @ ('"' | '\'' | '`')) => {
                    self.bump();
                    return Ok((at, Kind::Word(self.quoted(quote, at)?)));
                }
                Some(c) if c.is_whitespace() => {
                    self.bump();
                }
                Some('\\') if self.continued() => {
                    self.bump();
                    self.bump();
                }
                Some(_) => return Ok((at, self.bare(addresses, at)?)),
            }
        }
    }

    /// A backslash at the end of a line joins it with the next.
    fn continued(&self) -> bool {
        let mut ahead = self.rest.clone();
        ahead.next();
        ahead.next() == Some('\n')
    }

    fn quoted(&mut self, quote: char, start: Position) -> Result<String, Error> {
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.bump() {
                None => {
                    let problem = format!("the quote {quote} that begins here is not closed");
                    return Err(Error::new(start, problem));
                }
                Some(c) if c == quote => break,
                // as Caddy: a backslash escapes the quote only, and two stay two
                Some('\\') if quote != '`' => match self.rest.next_if(|c| *c == quote || *c == '\\') {
                    Some(c) => {
                        self.at.column += 1;
                        text.push_str(if c == quote { "" } else { "\\" });
                        text.push(c);
                    }
                    None => text.push('\\'),
                },
                Some(c) if c.is_control() && c != '\n' && c != '\t' && c != '\r' => {
                    return Err(control(c, at));
                }
                Some('\r') => {}
                Some(c) => text.push(c),
            }
        }
        writable(&text, start)?;
        match self.rest.peek() {
            Some(c) if !c.is_whitespace() && *c != ',' => {
                Err(Error::new(self.at, format!("expected a space after the closing quote, found {c:?}")))
            }
            _ => Ok(text),
        }
    }

    fn bare(&mut self, addresses: bool, start: Position) -> Result<Kind, Error> {
        let mut text = String::new();
        while let Some(c) = self.rest.next_if(|c| !(c.is_whitespace() || addresses && *c == ',')) {
            self.at.column += 1;
            if c.is_control() {
                return Err(control(c, start));
            }
            text.push(c);
        }
        Ok(match text.as_str() {
            "{" => Kind::Open,
            "}" => Kind::Close,
            _ if text.ends_with('{') => {
                let problem = format!("expected a space before the `{{` of {text:?}");
                return Err(Error::new(start, problem));
            }
            _ if text.starts_with('}') => {
                let problem = format!("expected `}}` alone in its line, found {text:?}");
                return Err(Error::new(start, problem));
            }
            _ if text.starts_with("<<") => {
                let problem = format!("{text:?}: heredocs are not read; quotes may span lines");
                return Err(Error::new(start, problem));
            }
            _ => {
                writable(&text, start)?;
                Kind::Word(text)
            }
        })
    }
}

/// Refuses what [`word`] has no way to write.
fn writable(text: &str, at: Position) -> Result<(), Error> {
    match needs_backquotes(text) && text.contains('`') {
        true => {
            Err(Error::new(at, format!("{text:?}: a backquote, and a backslash before a quote or at the end, cannot stand in one word")))
        }
        false => Ok(()),
    }
}

fn control(c: char, at: Position) -> Error {
    Error::new(at, format!("control character {c:?}"))
}

/// Reads all sites of `text`.
pub fn parse(text: &str) -> Result<Vec<Site>, Error> {
    let mut lexer = Lexer { rest: text.chars().peekable(), at: Position { line: 1, column: 1 } };
    let mut sites = Vec::new();
    while let Some(addresses) = addresses(&mut lexer)? {
        let body = block(&mut lexer, 1)?;
        sites.push(Site { addresses, body });
    }
    Ok(sites)
}

/// The addresses of the next site, up to and with its `{`; `None` at the end.
fn addresses(lexer: &mut Lexer) -> Result<Option<Vec<Word>>, Error> {
    let mut found = Vec::new();
    let mut comma = false;
    loop {
        let (at, kind) = lexer.token(true)?;
        match kind {
            Kind::Word(text) => {
                found.push(Word { text, at });
                comma = false;
            }
            Kind::Comma if !found.is_empty() && !comma => comma = true,
            Kind::Newline if found.is_empty() || comma => {}
            Kind::Open if !found.is_empty() && !comma => return Ok(Some(found)),
            Kind::End if found.is_empty() => return Ok(None),
            other => {
                let expected = match found.is_empty() || comma {
                    true => "an address",
                    false => "`{` or another address",
                };
                return Err(Error::new(at, format!("expected {expected}, found {other}")));
            }
        }
    }
}

/// What follows a `{`, up to and with its `}`.
fn block(lexer: &mut Lexer, depth: usize) -> Result<Vec<Directive>, Error> {
    end_of_line(lexer, "`{`")?;
    let mut directives = Vec::new();
    let mut words = Vec::new();
    loop {
        let (at, kind) = lexer.token(false)?;
        let mut nested = None;
        match kind {
            Kind::Word(text) => {
                words.push(Word { text, at });
                continue;
            }
            Kind::Newline if words.is_empty() => continue,
            Kind::Newline => {}
            Kind::Close if words.is_empty() => {
                end_of_line(lexer, "`}`")?;
                return Ok(directives);
            }
            Kind::Open if depth == MAX_DEPTH => {
                let problem = format!("blocks nested more than {MAX_DEPTH} deep");
                return Err(Error::new(at, problem));
            }
            Kind::Open if !words.is_empty() => nested = Some(block(lexer, depth + 1)?),
            other => {
                let expected = match words.is_empty() {
                    true => "a directive or `}`",
                    false => "a word, `{` or the end of the line",
                };
                return Err(Error::new(at, format!("expected {expected}, found {other}")));
            }
        }
        directives.push(Directive { words: std::mem::take(&mut words), block: nested });
    }
}

fn end_of_line(lexer: &mut Lexer, after: &str) -> Result<(), Error> {
    match lexer.token(false)? {
        (_, Kind::Newline | Kind::End) => Ok(()),
        (at, other) => Err(Error::new(at, format!("expected the end of the line after {after}, found {other}"))),
    }
}

/// Writes sites out, without a last newline.
pub fn dump(sites: &[Site]) -> String {
    let mut out = String::new();
    for site in sites {
        if !out.is_empty() {
            out.push('\n');
        }
        for (n, address) in site.addresses.iter().enumerate() {
            if n > 0 {
                out.push_str(", ");
            }
            word(&mut out, &address.text);
        }
        body(&mut out, &site.body, 0);
    }
    out
}

fn body(out: &mut String, directives: &[Directive], depth: usize) {
    out.push_str(" {\n");
    for directive in directives {
        indent(out, depth + 1);
        for (n, part) in directive.words.iter().enumerate() {
            if n > 0 {
                out.push(' ');
            }
            word(out, &part.text);
        }
        match &directive.block {
            Some(block) => {
                body(out, block, depth + 1);
                out.push('\n');
            }
            None => out.push('\n'),
        }
    }
    indent(out, depth);
    out.push('}');
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("    ");
    }
}

/// One word, so written that Caddy reads the same one.
fn word(out: &mut String, text: &str) {
    let bare = !text.is_empty()
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
        && !text.starts_with(['#', '`', '}'])
        && !text.starts_with("<<")
        && !text.ends_with('{')
        && !text.ends_with('\\');
    if bare {
        out.push_str(text);
    } else if needs_backquotes(text) {
        let _infallible = write!(out, "`{text}`");
    } else {
        let _infallible = write!(out, "\"{}\"", text.replace('"', "\\\""));
    }
}

/// For Caddy a backslash before another one does not escape it, so that no double quotes can hold a backslash before a quote.
fn needs_backquotes(text: &str) -> bool {
    text.ends_with('\\') || text.contains("\\\"")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
}

/// A site's address as written; `http://shop.example.com:8080/path`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Address<'a> {
    pub scheme: Option<Scheme>,
    /// "" for all hosts.
    pub host: &'a str,
    pub port: Option<u16>,
    /// "" or with its `/`.
    pub path: &'a str,
}

impl<'a> Address<'a> {
    /// `Err` is what is wrong with it.
    pub fn parse(text: &'a str) -> Result<Address<'a>, &'static str> {
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err("its scheme is neither http nor https"),
        };
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (place, None),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err("its port is no number from 1 to 65535"),
        };
        let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fine = match name {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_*".contains(&b)),
        };
        if !fine {
            return Err("its host has characters other than letters, digits, `.`, `-`, `_` and `*`");
        }
        if host.is_empty() && port.is_none() && scheme.is_none() {
            return Err("it has no host");
        }
        if path.contains(|c: char| c.is_whitespace() || "{}\"'`,?#\\".contains(c)) {
            return Err("its path has characters that no path has");
        }
        Ok(Address { scheme, host, port, path })
    }

    /// How it is served: a port means its scheme, and without either Caddy serves HTTPS.
    pub fn served(&self) -> (Scheme, u16) {
        match (self.scheme, self.port) {
            (None | Some(Scheme::Http), Some(80)) | (Some(Scheme::Http), None) => (Scheme::Http, 80),
            (None | Some(Scheme::Https), None) => (Scheme::Https, 443),
            (scheme, Some(port)) => (scheme.unwrap_or(Scheme::Https), port),
        }
    }

    /// host[:port]
    pub fn domain(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.into(),
        }
    }
}

/// The addresses of a written-out Caddyfile, without reading the rest: thousands are compared for one deploy. Only for what [`dump`] (or
/// the older handler, which wrote the same form) gave.
pub fn site_addresses(text: &str) -> impl Iterator<Item = &str> {
    // a quoted word may span lines and look like a site there
    let (mut open, quotes) = (false, text.contains('"') || text.contains('`'));
    let sites = text.split('\n').filter_map(move |line| {
        let inside = open;
        let bytes = line.as_bytes();
        for (n, byte) in bytes.iter().enumerate().filter(|_| quotes) {
            open ^= *byte == b'"' && (!open || n == 0 || bytes[n - 1] != b'\\');
        }
        let begins = !inside && !matches!(bytes.first(), None | Some(b' ' | b'\t' | b'}' | b'"'));
        begins.then(|| line.strip_suffix(" {")).flatten()
    });
    sites.flat_map(|addresses| addresses.split(',').map(|address| address.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn words(words: &[Word]) -> Vec<Value> {
        words.iter().map(|w| json!(w.text)).collect()
    }

    fn lines(directives: &[Directive]) -> Vec<Value> {
        let line = |directive: &Directive| {
            let mut line = words(&directive.words);
            line.extend(directive.block.as_deref().map(|block| json!(lines(block))));
            json!(line)
        };
        directives.iter().map(line).collect()
    }

    fn ast(sites: &[Site]) -> Value {
        let site = |site: &Site| json!({"keys": words(&site.addresses), "body": lines(&site.body)});
        sites.iter().map(site).collect()
    }

    #[test]
    fn vectors() {
        let vectors: Vec<Value> = serde_json::from_str(include_str!("../../tests/vectors/caddyfile.json")).unwrap();
        assert!(vectors.len() >= 12);
        for vector in vectors {
            let sites = parse(vector["input"].as_str().unwrap());
            if vector.get("error").is_some() {
                assert!(sites.is_err(), "{vector}");
                continue;
            }
            let sites = sites.unwrap();
            assert_eq!(ast(&sites), vector["ast"], "{vector}");
            assert_eq!(dump(&sites), vector["dump"], "{vector}");
            let again = parse(&dump(&sites)).unwrap();
            assert_eq!(ast(&again), vector["ast"], "{vector}");
        }
    }

    #[test]
    fn grammar() {
        for (input, tree) in [
            ("a,b ,\n c {\n}", json!([{"keys": ["a", "b", "c"], "body": []}])),
            ("# one\na { # two\n x#y '#' # three\n}", json!([{"keys": ["a"], "body": [["x#y", "#"]]}])),
            (
                r#"a {
                    x "q\"q\d\\" 'p\'p"' `b\`
                    y a'b a,b \
                      c
                }"#,
                json!([{"keys": ["a"], "body": [["x", "q\"q\\d\\\\", "p'p\"", "b\\"], ["y", "a'b", "a,b", "c"]]}]),
            ),
            ("a {\r\n x {\r\n  y {\r\n   z\r\n  }\r\n }\r\n}\r\n", json!([{"keys": ["a"], "body": [["x", [["y", [["z"]]]]]]}])),
            ("a {\n x {h} \"\" '{' \"}\"\n}", json!([{"keys": ["a"], "body": [["x", "{h}", "", "{", "}"]]}])),
        ] {
            let sites = parse(input).unwrap();
            assert_eq!(ast(&sites), tree, "{input}");
            assert_eq!(ast(&parse(&dump(&sites)).unwrap()), tree, "{input}");
        }
    }

    /// The words that Caddy 2 itself reads, by the rules of its lexer.
    fn caddys_words(text: &str) -> Vec<String> {
        let (mut words, mut word) = (Vec::new(), String::new());
        let (mut quote, mut escaped) = (None, false);
        for c in text.chars() {
            if !escaped && c == '\\' && quote != Some('`') {
                escaped = true;
            } else if let Some(open) = quote {
                if escaped {
                    if c != '"' {
                        word.push('\\');
                    }
                    escaped = false;
                } else if c == open {
                    quote = None;
                    words.push(std::mem::take(&mut word));
                    continue;
                }
                word.push(c);
            } else if c.is_whitespace() {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            } else if word.is_empty() && !escaped && (c == '"' || c == '`') {
                quote = Some(c);
            } else {
                if std::mem::take(&mut escaped) {
                    word.push('\\');
                }
                word.push(c);
            }
        }
        words.extend((!word.is_empty()).then_some(word));
        words
    }

    #[test]
    fn caddy_reads_the_same_words() {
        // every word of up to five of the characters that matter
        let alphabet = ['a', ' ', '"', '\\', '`', '\'', '{', '#'];
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..5 {
            let upto = texts.len();
            for n in from..upto {
                for c in alphabet {
                    texts.push(format!("{}{c}", texts[n]));
                }
            }
            from = upto;
        }
        for text in texts {
            if needs_backquotes(&text) && text.contains('`') {
                continue;
            }
            let mut out = String::from("x ");
            word(&mut out, &text);
            assert_eq!(caddys_words(&format!("{out} y")), ["x", &text, "y"], "{out}");
            let back = parse(&format!("a {{\n{out}\n}}")).unwrap();
            assert_eq!(back[0].body[0].words[1].text, text);
        }
    }

    #[test]
    fn refused() {
        for (input, message) in [
            ("a", "line 1, column 2: expected `{` or another address, found the end of the text"),
            ("a\nb {\n}", "line 1, column 2: expected `{` or another address, found the end of the line"),
            ("a,, b {\n}", "line 1, column 3: expected an address, found `,`"),
            ("{\n}", "line 1, column 1: expected an address, found `{`"),
            ("a {\n x", "line 2, column 3: expected a word, `{` or the end of the line, found the end of the text"),
            ("a {\n", "line 2, column 1: expected a directive or `}`, found the end of the text"),
            ("a { x\n}", "line 1, column 5: expected the end of the line after `{`, found \"x\""),
            ("a {\n x }", "line 2, column 4: expected a word, `{` or the end of the line, found `}`"),
            ("a {\n} b", "line 2, column 3: expected the end of the line after `}`, found \"b\""),
            ("é{\n}", "line 1, column 1: expected a space before the `{` of \"é{\""),
            ("a {\n é \"x\n}", "line 2, column 4: the quote \" that begins here is not closed"),
            ("a {\n x \"y\"z\n}", "line 2, column 7: expected a space after the closing quote, found 'z'"),
            ("a {\n }}\n}", "line 2, column 2: expected `}` alone in its line, found \"}}\""),
            ("a {\n {\n}", "line 2, column 2: expected a directive or `}`, found `{`"),
            ("a {\n x\0\n}", "line 2, column 2: control character '\\0'"),
            (
                "a {\n x y\\\"`\n}",
                "line 2, column 4: \"y\\\\\\\"`\": a backquote, and a backslash before a quote or at the end, cannot stand in one word",
            ),
            ("a {\n respond <<EOF\n}", "line 2, column 10: \"<<EOF\": heredocs are not read; quotes may span lines"),
        ] {
            assert_eq!(parse(input).unwrap_err().to_string(), message, "{input}");
        }
        let deep = "a {\n".repeat(40);
        assert!(parse(&deep).unwrap_err().problem.contains("nested"));
    }

    #[test]
    fn addresses() {
        let parsed = |text| {
            let address = Address::parse(text)?;
            Ok::<_, &str>((address.served(), address.domain(), address.path))
        };
        let fine = |scheme, port, domain: &str, path| Ok(((scheme, port), domain.into(), path));
        use Scheme::*;
        assert_eq!(parsed("http://a.b"), fine(Http, 80, "a.b", ""));
        assert_eq!(parsed("a.b:80/x"), fine(Http, 80, "a.b:80", "/x"));
        assert_eq!(parsed("a.b"), fine(Https, 443, "a.b", ""));
        assert_eq!(parsed("https://*.b:8443/"), fine(Https, 8443, "*.b:8443", "/"));
        assert_eq!(parsed("http://[::1]:80"), fine(Http, 80, "[::1]:80", ""));
        assert_eq!(parsed("http://[::1]"), fine(Http, 80, "[::1]", ""));
        assert_eq!(parsed(":8080"), fine(Https, 8080, ":8080", ""));
        for bad in ["", "ftp://a", "a:b", "a:0", "a:99999", "{$X}", "a b", "a:1:2", "[a]", "a/{x}", "é.fr"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_written_sites() {
        let text = "http://a, b {\n    x \"q\\\"\nno {\n\"\n    y {\n        z\n    }\n}\nc {\n}";
        assert_eq!(dump(&parse(text).unwrap()), text);
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["http://a", "b", "c"]);
        assert_eq!(site_addresses("").count(), 0);
        let text = "a {\n}\nb {\n    x {\n    }\n}\nc {\n}\nd {\n}";
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }
}
