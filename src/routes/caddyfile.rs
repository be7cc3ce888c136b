//! Caddyfiles: text → sites with positions → text. Pure.
//!
//! The grammar: sites with addresses that commas or spaces separate (a comma may end a line), a body of directives in braces, blocks
//! below directives. `{` ends its line, `}` stands alone. `"` groups words and may span lines, a backslash before one keeps it; backquotes
//! group without that. `#` begins a comment where a word could begin. Words are Caddy's, and keep their quotes: in an expression these count.

use std::fmt;

use super::address::{Scheme, SiteAddress};

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
    /// In which it stands, if that is said.
    pub quote: Option<char>,
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

/// What is wrong, and where: without the words that stand there, of which one may be a password.
#[derive(Debug, PartialEq)]
pub struct At<P> {
    pub at: Position,
    pub problem: P,
}

impl<P: fmt::Debug + fmt::Display> std::error::Error for At<P> {}

impl<P: fmt::Display> fmt::Display for At<P> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "line {line}, column {column}: {}", self.problem)
    }
}

/// Why a text is no Caddyfile.
pub type Error = At<Problem>;

#[derive(Debug, PartialEq)]
pub enum Problem {
    Expected {
        expected: &'static str,
        found: Token,
    },
    /// A block without an address.
    Global,
    /// What sites would import.
    Snippet,
    Control(char),
    Unclosed(char),
    OpensInWord,
    ClosesInWord,
    Heredoc,
    /// Caddy would leave it out, or join words by it.
    Backslash,
    QuotedBrace,
    Deep,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Problem::Expected { expected, found } => write!(f, "expected {expected}, found {found}"),
            Problem::Global => f.write_str(
                "global options are the operator's: a site begins with its address; leave this block out (e-mail and ways to get certificates are \
                 for a site's `tls`)",
            ),
            Problem::Snippet => f.write_str("snippets cannot be used: write the lines into each site, or give the sites one block with all their addresses"),
            Problem::Control(c) => write!(f, "control character {c:?}"),
            Problem::Unclosed(quote) => write!(f, "the quote {quote} that begins here is not closed"),
            Problem::OpensInWord => f.write_str("expected a space before the `{` at the end of a word"),
            Problem::ClosesInWord => f.write_str("expected `}` alone in its line, found a word that begins with it"),
            Problem::Heredoc => f.write_str("heredocs are not read; quotes may span lines"),
            Problem::Backslash => f.write_str("Caddy leaves out a backslash that stands so; write the word in backquotes"),
            Problem::QuotedBrace => f.write_str("for Caddy a brace is one within quotes, too"),
            Problem::Deep => write!(f, "blocks nested more than {MAX_DEPTH} deep"),
        }
    }
}

impl Word {
    pub fn new(text: impl Into<String>, at: Position) -> Word {
        let text = text.into();
        Word { text, at, quote: None }
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
    pub fn each_word(&mut self, change: &mut impl FnMut(&mut Word)) {
        fn below(directives: &mut [Directive], change: &mut impl FnMut(&mut Word)) {
            for directive in directives {
                directive.words.iter_mut().for_each(&mut *change);
                below(directive.block.as_deref_mut().unwrap_or_default(), change);
            }
        }
        self.addresses.iter_mut().for_each(&mut *change);
        below(&mut self.body, change);
    }

    /// Whether one of its addresses is served without TLS.
    pub fn plain_http(&self) -> bool {
        let addresses = self.addresses.iter();
        let mut addresses = addresses.filter_map(|word| SiteAddress::parse(&word.text).ok());
        addresses.any(|address| address.served().0 == Scheme::Http)
    }
}

/// Blocks in blocks; far more than any proxy's configuration has.
const MAX_DEPTH: usize = 16;

#[derive(Debug, PartialEq)]
pub enum Token {
    Word(Word),
    Open,
    Close,
    Comma,
    Newline,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Token::Word(_) => f.write_str("a word"),
            Token::Open => f.write_str("`{`"),
            Token::Close => f.write_str("`}`"),
            Token::Comma => f.write_str("`,`"),
            Token::Newline => f.write_str("the end of the line"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    at: Position,
}

impl Lexer<'_> {
    fn of(text: &str) -> Lexer<'_> {
        Lexer { rest: text.chars().peekable(), at: Position { line: 1, column: 1 } }
    }

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
    fn token(&mut self, addresses: bool) -> Result<(Position, Token), Error> {
        loop {
            let at = self.at;
            match self.rest.peek().copied() {
                None => return Ok((at, Token::End)),
                Some('\n') => {
                    self.bump();
                    return Ok((at, Token::Newline));
                }
                // A backslash joins the lines here, too, wherever in the comment it stands.
                Some('#') => {
                    let mut joins = false;
                    while let Some(c) = self.rest.next_if(|c| *c != '\n') {
                        joins |= c == '\\';
                    }
                    if joins {
                        self.bump();
                    }
                }
                Some(',') if addresses => {
                    self.bump();
                    return Ok((at, Token::Comma));
                }
                Some(quote @ ('"' | '`')) => {
                    self.bump();
                    return Ok((at, self.quoted(quote, at)?));
                }
                Some(c) if c.is_whitespace() => {
                    self.bump();
                }
                Some('\\') if self.continued() => while self.bump() != Some('\n') {},
                Some(_) => return Ok((at, self.bare(addresses, at)?)),
            }
        }
    }

    /// A backslash at the end of a line joins it with the next.
    fn continued(&self) -> bool {
        self.rest.clone().skip(1).find(|c| *c != '\r') == Some('\n')
    }

    fn quoted(&mut self, quote: char, start: Position) -> Result<Token, Error> {
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.bump() {
                None => return Err(At { at: start, problem: Problem::Unclosed(quote) }),
                Some(c) if c == quote => break,
                // as Caddy: a backslash escapes the quote only, and two stay two
                Some('\\') if quote == '"' => match self.rest.next_if(|c| matches!(c, '"' | '\\')) {
                    Some(c) => {
                        self.at.column += 1;
                        text.push_str(if c == quote { "" } else { "\\" });
                        text.push(c);
                    }
                    None => text.push('\\'),
                },
                Some(c) if c.is_control() && c != '\n' && c != '\t' && c != '\r' => {
                    return Err(At { at, problem: Problem::Control(c) });
                }
                Some(c) => text.push(c),
            }
        }
        match text.as_str() {
            "{" | "}" => Err(At { at: start, problem: Problem::QuotedBrace }),
            _ => Ok(Token::Word(Word { text, at: start, quote: Some(quote) })),
        }
    }

    fn bare(&mut self, addresses: bool, at: Position) -> Result<Token, Error> {
        let mut text = String::new();
        while let Some(c) = self.rest.peek().copied().filter(|c| !(c.is_whitespace() || addresses && *c == ',')) {
            if c == '\\' && self.continued() {
                break;
            }
            self.bump();
            if c.is_control() {
                return Err(At { at, problem: Problem::Control(c) });
            }
            text.push(c);
            if c == '\\' {
                match self.rest.peek().copied() {
                    Some('\\') => text.extend(self.bump()),
                    Some(c) if !(c.is_whitespace() || c == '<' || text.len() == 1 && "\"`#".contains(c)) => {}
                    _ => return Err(At { at, problem: Problem::Backslash }),
                }
            }
        }
        let problem = match text.as_str() {
            "{" => return Ok(Token::Open),
            "}" => return Ok(Token::Close),
            _ if text.ends_with('{') => Problem::OpensInWord,
            _ if text.starts_with('}') => Problem::ClosesInWord,
            _ if text.starts_with("<<") => Problem::Heredoc,
            _ => return Ok(Token::Word(Word::new(text, at))),
        };
        Err(At { at, problem })
    }
}

/// Reads all sites of `text`.
pub fn parse(text: &str) -> Result<Vec<Site>, Error> {
    let mut lexer = Lexer::of(text);
    let mut sites = Vec::new();
    while let Some(addresses) = addresses(&mut lexer)? {
        let body = block(&mut lexer, 1)?;
        sites.push(Site { addresses, body });
    }
    Ok(sites)
}

/// The addresses of the next site, up to and with its `{`; `None` at the end.
fn addresses(lexer: &mut Lexer) -> Result<Option<Vec<Word>>, Error> {
    let mut words = Vec::new();
    let mut comma = false;
    loop {
        let (at, token) = lexer.token(true)?;
        match token {
            Token::Word(Word { text, .. }) if text.starts_with('(') => return Err(At { at, problem: Problem::Snippet }),
            Token::Word(Word { text, .. }) => {
                words.push(Word::new(text, at));
                comma = false;
            }
            Token::Open if words.is_empty() => return Err(At { at, problem: Problem::Global }),
            Token::Comma if !words.is_empty() && !comma => comma = true,
            Token::Newline if words.is_empty() || comma => {}
            Token::Open if !words.is_empty() && !comma => return Ok(Some(words)),
            Token::End if words.is_empty() => return Ok(None),
            found => {
                let expected = if words.is_empty() || comma { "an address" } else { "`{` or another address" };
                return Err(At { at, problem: Problem::Expected { expected, found } });
            }
        }
    }
}

/// What follows a `{`, up to and with its `}`.
fn block(lexer: &mut Lexer, depth: usize) -> Result<Vec<Directive>, Error> {
    end_of_line(lexer, "the end of the line after `{`")?;
    let mut directives = Vec::new();
    let mut words = Vec::new();
    loop {
        let (at, token) = lexer.token(false)?;
        let mut nested = None;
        match token {
            Token::Word(word) => {
                words.push(word);
                continue;
            }
            Token::Newline if words.is_empty() => continue,
            Token::Newline => {}
            Token::Close if words.is_empty() => {
                end_of_line(lexer, "the end of the line after `}`")?;
                return Ok(directives);
            }
            Token::Open if depth == MAX_DEPTH => return Err(At { at, problem: Problem::Deep }),
            Token::Open if !words.is_empty() => nested = Some(block(lexer, depth + 1)?),
            found => {
                let expected = if words.is_empty() { "a directive or `}`" } else { "a word, `{` or the end of the line" };
                return Err(At { at, problem: Problem::Expected { expected, found } });
            }
        }
        directives.push(Directive { words: std::mem::take(&mut words), block: nested });
    }
}

fn end_of_line(lexer: &mut Lexer, expected: &'static str) -> Result<(), Error> {
    match lexer.token(false)? {
        (_, Token::Newline | Token::End) => Ok(()),
        (at, found) => Err(At { at, problem: Problem::Expected { expected, found } }),
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
            word(&mut out, address);
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
            word(out, part);
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

/// One word, so written that Caddy reads the same one: in its own quotes, if it can stand there.
fn word(out: &mut String, Word { text, quote, .. }: &Word) {
    let fits = |quote: &Option<char>| match quote {
        None => is_bare(text),
        // For Caddy a backslash before another one does not escape it: none that is alone can stand before a quote or at the end.
        Some('"') => text.split('"').all(|part| (part.len() - part.trim_end_matches('\\').len()).is_multiple_of(2)),
        _ => !text.contains('`'),
    };
    match [*quote, None, Some('"')].iter().find(|quote| fits(quote)) {
        Some(None) => out.push_str(text),
        Some(Some('"')) => out.push_str(&format!("\"{}\"", text.replace('"', "\\\""))),
        _ => out.push_str(&format!("`{}`", text.replace('`', ""))),
    }
}

/// Whether it is one word as it stands, and that one.
fn is_bare(text: &str) -> bool {
    let mut lexer = Lexer::of(text);
    let word = Token::Word(Word::new(text, lexer.at));
    lexer.token(false).is_ok_and(|(_, token)| token == word) && lexer.rest.peek().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::address::site_addresses;
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
            ("# one\na { # two\n x#y '#' # three\n}", json!([{"keys": ["a"], "body": [["x#y", "'#'"]]}])),
            (
                r#"a {
                    x "q\"q\d\\" 'p\'p"' `b\`
                    y a'b a,b \
                      c
                }"#,
                json!([{"keys": ["a"], "body": [["x", "q\"q\\d\\\\", "'p\\'p\"'", "b\\"], ["y", "a'b", "a,b", "c"]]}]),
            ),
            ("a {\r\n x {\r\n  y {\r\n   z\r\n  }\r\n }\r\n}\r\n", json!([{"keys": ["a"], "body": [["x", [["y", [["z"]]]]]]}])),
            ("a {\n x {h} \"\" '{' \"} \"\n}", json!([{"keys": ["a"], "body": [["x", "{h}", "", "'{'", "} "]]}])),
            ("a {\n x \"b\"c\\\r\n d # \\e\n f\n}", json!([{"keys": ["a"], "body": [["x", "b", "c", "d", "f"]]}])),
        ] {
            let sites = parse(input).unwrap();
            assert_eq!(ast(&sites), tree, "{input}");
            assert_eq!(ast(&parse(&dump(&sites)).unwrap()), tree, "{input}");
        }
    }

    /// The words of a line that Caddy 2 itself reads, by the rules of its lexer, each with its quote.
    fn caddys_words(text: &str) -> Vec<(String, Option<char>)> {
        let (mut words, mut word) = (Vec::new(), String::new());
        let (mut quote, mut escaped, mut comment) = (None, false, false);
        for c in text.chars() {
            if !escaped && c == '\\' && quote != Some('`') {
                escaped = true;
            } else if quote.is_some() {
                if quote == Some('"') && escaped {
                    if c != '"' {
                        word.push('\\');
                    }
                    escaped = false;
                } else if Some(c) == quote {
                    words.push((std::mem::take(&mut word), quote.take()));
                    escaped = false;
                    continue;
                }
                word.push(c);
            } else if c.is_whitespace() {
                if !word.is_empty() {
                    words.push((std::mem::take(&mut word), None));
                    escaped = false;
                }
            } else if comment || word.is_empty() && c == '#' {
                comment = true;
            } else if word.is_empty() && (c == '"' || c == '`') {
                quote = Some(c);
            } else {
                if std::mem::take(&mut escaped) {
                    word.push('\\');
                }
                word.push(c);
            }
        }
        words.extend((!word.is_empty()).then_some((word, quote)));
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
        let read = |line: &str| {
            let sites = parse(&format!("a {{\n{line}\n}}"))?;
            let words = sites[0].body.iter().flat_map(|line| &line.words);
            Ok::<_, Error>((words.map(|word| (word.text.clone(), word.quote)).collect::<Vec<_>>(), dump(&sites)))
        };
        for text in texts {
            // Nothing that is written ends early, even where no quotes fit.
            for quote in [None, Some('"'), Some('`')] {
                let mut out = String::from("x ");
                word(&mut out, &Word { text: text.clone(), quote, ..Word::default() });
                let words = caddys_words(&format!("{out} y"));
                assert_eq!((words.len(), &*words[2].0), (3, "y"), "{out}");
                assert_eq!(words[1].0.replace('`', ""), text.replace('`', ""), "{out}");
                if text != "{" {
                    assert_eq!(read(&out).unwrap().0, words[..2], "{out}");
                }
            }
            // And what is read is written as it was.
            let Ok((words, out)) = read(&format!("x {text}")) else { continue };
            assert_eq!(words, caddys_words(&format!("x {text}")), "{text}");
            assert_eq!(words, caddys_words(out.lines().nth(1).unwrap()), "{text}");
        }
    }

    #[test]
    fn refused() {
        for (input, message) in [
            ("a", "line 1, column 2: expected `{` or another address, found the end of the text"),
            ("a\nb {\n}", "line 1, column 2: expected `{` or another address, found the end of the line"),
            ("a,, b {\n}", "line 1, column 3: expected an address, found `,`"),
            (
                "{\n email a\n}\na {\n}",
                "line 1, column 1: global options are the operator's: a site begins with its address; leave this block out (e-mail and ways to get certificates are for a site's `tls`)",
            ),
            (
                "(a) {\n}",
                "line 1, column 1: snippets cannot be used: write the lines into each site, or give the sites one block with all their addresses",
            ),
            ("a {\n x", "line 2, column 3: expected a word, `{` or the end of the line, found the end of the text"),
            ("a {\n", "line 2, column 1: expected a directive or `}`, found the end of the text"),
            ("a { x\n}", "line 1, column 5: expected the end of the line after `{`, found a word"),
            ("a {\n x }", "line 2, column 4: expected a word, `{` or the end of the line, found `}`"),
            ("a {\n} b", "line 2, column 3: expected the end of the line after `}`, found a word"),
            ("é{\n}", "line 1, column 1: expected a space before the `{` at the end of a word"),
            ("a {\n é \"x\n}", "line 2, column 4: the quote \" that begins here is not closed"),
            ("a {\n }}\n}", "line 2, column 2: expected `}` alone in its line, found a word that begins with it"),
            ("a {\n {\n}", "line 2, column 2: expected a directive or `}`, found `{`"),
            ("a {\n x\0\n}", "line 2, column 2: control character '\\0'"),
            ("a {\n x y\\ z\n}", "line 2, column 4: Caddy leaves out a backslash that stands so; write the word in backquotes"),
            ("a {\n x \\\"y\n}", "line 2, column 4: Caddy leaves out a backslash that stands so; write the word in backquotes"),
            ("a {\n x y \"}\"\n}", "line 2, column 6: for Caddy a brace is one within quotes, too"),
            ("a {\n respond <<EOF\n}", "line 2, column 10: heredocs are not read; quotes may span lines"),
        ] {
            assert_eq!(parse(input).unwrap_err().to_string(), message, "{input}");
        }
        let deep = "a {\n".repeat(40);
        assert!(parse(&deep).unwrap_err().problem == Problem::Deep);
    }

    #[test]
    fn addresses_are_found_by_line_in_what_is_written() {
        let text = "http://a, b {\n    x \"q\\\"\nno {\n\"\n    y {\n        z\n    }\n}\nc {\n}";
        assert_eq!(dump(&parse(text).unwrap()), text);
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["http://a", "b", "c"]);
        // what no double quotes can hold
        let text = "a {\n    x `\\\"`\n}\nb {\n}";
        assert_eq!(dump(&parse(text).unwrap()), text);
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["a", "b"]);
    }
}
