//! The layers of a configuration, laid over each other key by key.
//!
//! Each value is remembered with where it came from, and is read on its own before all are read together: so one
//! fault never hides another, and each can name its source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, iter,
    path::Path,
};

use serde::Deserialize;
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    Config,
    faults::{ConfigErrors, Fault, Origin},
    raw::{BUILT_IN_LISTENER, RawConfig},
};

/// Reads all layers. Both forms of the result say the same.
pub(super) fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    set: &[String],
) -> Result<(Config, RawConfig), ConfigErrors> {
    let mut layers = Layers { schema: Schema::new(), entries: BTreeMap::new(), faults: Vec::new() };
    if let Some(file) = file {
        layers.add_file(file);
    }
    // A file that names listeners names all of them: nobody who writes down a loopback listener wants another one
    // that is open to the world.
    if !layers.entries.keys().any(|path| path[0] == "listeners") {
        layers.add_built_in_listener();
    }
    layers.add_env(env);
    for argument in set {
        layers.add_argument(argument);
    }
    layers.finish()
}

/// A key as its parts: `["mqtt", "max_inflight"]`.
type KeyPath = Vec<String>;

struct Layers {
    schema: Schema,
    entries: BTreeMap<KeyPath, Entry>,
    faults: Vec<Fault>,
}

/// The value of one key: anything but a table, save that an empty table stands for itself.
struct Entry {
    value: Value,
    /// As it was typed, where quotes may be left out.
    text: Option<String>,
    origin: Option<Origin>,
}

impl Layers {
    fn add_built_in_listener(&mut self) {
        let path = vec!["listeners".to_owned(), BUILT_IN_LISTENER.to_owned()];
        self.entries.insert(path, Entry { value: Value::Table(Table::new()), text: None, origin: None });
    }

    fn add_file(&mut self, file: &Path) {
        let name = file.display().to_string();
        let whole = Origin::File { name: name.clone(), line: None };
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                self.faults.push(Fault { path: None, message: error.to_string(), origin: Some(whole) });
                return;
            }
        };
        let line_of = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        let (table, errors) = DeTable::parse_recoverable(&text);
        let mut unreadable = BTreeSet::new();
        for error in errors {
            let line = error.span().map(|span| line_of(span.start));
            let message = error.message().trim_end().replace('\n', ", ");
            unreadable.extend(line);
            let origin = Some(Origin::File { name: name.clone(), line });
            self.faults.push(Fault { path: None, message, origin });
        }
        let mut found = Vec::new();
        flatten_spanned(&table.into_inner(), &mut Vec::new(), &mut found);
        for (path, offset, value) in found {
            let line = line_of(offset);
            // What the parser made of a line that it could not read is not what was meant.
            if unreadable.contains(&line) {
                continue;
            }
            let origin = Some(Origin::File { name: name.clone(), line: Some(line) });
            match Value::deserialize(ValueDeserializer::from(value)) {
                Ok(value) => {
                    self.entries.insert(path, Entry { value, text: None, origin });
                }
                Err(error) => {
                    let message = error.message().trim_end().to_owned();
                    self.faults.push(Fault { path: Some(path.join(".")), message, origin });
                }
            }
        }
    }

    fn add_env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        // The environment has no order; two names that differ only in case must not mean one thing today and
        // another tomorrow.
        let variables: BTreeSet<(String, String)> = env.into_iter().collect();
        for (name, text) in variables {
            let lower = name.to_ascii_lowercase();
            let Some(key) = lower.strip_prefix(ENV_PREFIX) else { continue };
            let origin = Origin::Env(name);
            if key.contains("__") {
                self.add_text(key.split("__").map(str::to_owned).collect(), &text, origin);
            } else if let Some(meant) = self.schema.with_single_underscores(key) {
                let meant = format!("{ENV_PREFIX}{}", meant.join("__")).to_ascii_uppercase();
                let message = format!("the parts of a key are separated by two underscores: {meant}");
                self.faults.push(Fault { path: None, message, origin: Some(origin) });
            }
            // Anything else is not ours: a Kubernetes service named "flotilla" sets FLOTILLA_PORT and the like.
        }
    }

    fn add_argument(&mut self, argument: &str) {
        let Some((key, text)) = argument.split_once('=') else {
            let message = "must have the form key=value".to_owned();
            self.faults.push(Fault { path: None, message, origin: Some(Origin::Set(argument.to_owned())) });
            return;
        };
        let path: KeyPath = key.split('.').map(|part| part.trim().to_owned()).collect();
        // A fault that repeats the argument ends up in logs.
        let shown = if holds_secret(&path) { format!("{key}=...") } else { argument.to_owned() };
        self.add_text(path, text, Origin::Set(shown));
    }

    /// A value from the environment or the command line: TOML, or a text without its quotes.
    fn add_text(&mut self, path: KeyPath, text: &str, origin: Origin) {
        if path.len() > KEY_PARTS_MAX || path.iter().any(String::is_empty) {
            let message = "is not a key".to_owned();
            self.faults.push(Fault { path: Some(path.join(".")), message, origin: Some(origin) });
            return;
        }
        let value = text.parse().unwrap_or_else(|_| Value::String(text.to_owned()));
        let mut found = Vec::new();
        flatten(value, path, &mut found);
        let typed = if found.len() == 1 { Some(text.to_owned()) } else { None };
        for (path, value) in found {
            self.entries.insert(path, Entry { value, text: typed.clone(), origin: Some(origin.clone()) });
        }
    }

    fn finish(mut self) -> Result<(Config, RawConfig), ConfigErrors> {
        let mut good = Table::new();
        let mut faulty = BTreeMap::new();
        for (path, entry) in &self.entries {
            match self.schema.read(path, entry) {
                Ok(value) => insert(&mut good, path, value),
                // An unknown section is one fault, however many keys it has.
                Err((path, message)) => {
                    faulty.entry(path).or_insert((message, entry.origin.clone()));
                }
            }
        }
        let raw: RawConfig = good.try_into().expect("each value was read on its own");
        let sections: BTreeSet<String> = faulty.keys().map(|path| path[0].clone()).collect();
        for (path, (message, origin)) in faulty {
            self.faults.push(Fault { path: Some(path.join(".")), message, origin });
        }
        for (path, message) in raw.contradictions() {
            // What contradicts a value that could not be read may be the default in its place.
            if !sections.contains(path.split('.').next().unwrap_or_default()) {
                let key: KeyPath = path.split('.').map(str::to_owned).collect();
                let origin = self.entries.get(&key).and_then(|entry| entry.origin.clone());
                self.faults.push(Fault { path: Some(path), message, origin });
            }
        }
        ConfigErrors::check(self.faults)?;
        Ok((raw.clone().into_config(), raw))
    }
}

/// Which keys there are, as the defaults show.
struct Schema {
    keys: BTreeSet<KeyPath>,
}

impl Schema {
    fn new() -> Self {
        let defaults =
            Value::try_from(RawConfig::default()).expect("the schema has no type that TOML has not");
        let mut found = Vec::new();
        flatten(defaults, Vec::new(), &mut found);
        Self { keys: found.into_iter().map(|(path, _)| path).collect() }
    }

    /// Reads one value as if it were alone. The error names the faulty key, which is a part of `path`.
    fn read(&self, path: &KeyPath, entry: &Entry) -> Result<Value, (KeyPath, String)> {
        let generic = generic(path);
        if let ["listeners", name, ..] = parts(path)[..]
            && !is_listener_name(name)
        {
            let message =
                "a listener's name has 1 to 64 lower case letters, digits, \"_\" or \"-\"".to_owned();
            return Err((path[..2].to_vec(), message));
        }
        if self.keys.contains(&generic) {
            return read_alone(path, entry).map_err(|message| (path.clone(), message));
        }
        let known = (0..=path.len()).rev().find(|len| self.has_prefix(&generic[..*len])).unwrap_or(0);
        if known == path.len() {
            let empty = entry.value.as_table().is_some_and(Table::is_empty);
            let message = || (path.clone(), "must be a table".to_owned());
            return if empty { Ok(entry.value.clone()) } else { Err(message()) };
        }
        if self.keys.contains(&generic[..known]) {
            return Err((path[..known].to_vec(), "takes a value, not a table".to_owned()));
        }
        let message = match self.similar(&generic[..known], &path[known]) {
            Some(similar) => format!("unknown key; did you mean {similar:?}?"),
            None => "unknown key".to_owned(),
        };
        Err((path[..=known].to_vec(), message))
    }

    fn has_prefix(&self, prefix: &[String]) -> bool {
        self.keys.range(prefix.to_vec()..).next().is_some_and(|key| key.starts_with(prefix))
    }

    /// The key below `prefix` that is most like `part`, if any is.
    fn similar(&self, prefix: &[String], part: &str) -> Option<&str> {
        let siblings =
            self.keys.iter().filter(|key| key.starts_with(prefix)).map(|key| key[prefix.len()].as_str());
        let scored = siblings.map(|sibling| (strsim::jaro_winkler(sibling, part), sibling));
        let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (best.0 > 0.8).then_some(best.1)
    }

    /// The key whose parts, joined by single underscores, are `joined`.
    fn with_single_underscores(&self, joined: &str) -> Option<&KeyPath> {
        self.keys.iter().find(|key| key.join("_") == joined)
    }
}

/// Reads a value at its place in an otherwise empty configuration.
fn read_alone(path: &KeyPath, entry: &Entry) -> Result<Value, String> {
    let read = |value: Value| {
        let mut table = Table::new();
        insert(&mut table, path, value.clone());
        table.try_into::<RawConfig>().map(|_| value)
    };
    read(entry.value.clone()).or_else(|error| {
        // A name may look like a number: FLOTILLA_NODE__NAME=7.
        let unquoted =
            entry.text.clone().filter(|_| !entry.value.is_str()).map(|text| read(Value::String(text)));
        unquoted.and_then(Result::ok).ok_or_else(|| error.message().trim_end().to_owned())
    })
}

/// The same path with the name of a listener that the schema knows.
fn generic(path: &KeyPath) -> KeyPath {
    let mut generic = path.clone();
    if generic.len() > 1 && generic[0] == "listeners" {
        BUILT_IN_LISTENER.clone_into(&mut generic[1]);
    }
    generic
}

/// Whether the value of this key is a secret, or may be a table with one.
fn holds_secret(path: &KeyPath) -> bool {
    SECRET_KEYS.iter().any(|secret| secret.starts_with(&parts(path)))
}

fn parts(path: &KeyPath) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn is_listener_name(name: &str) -> bool {
    let in_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(in_name)
}

/// Puts a value where `path` says; tables on the way are made.
fn insert(table: &mut Table, path: &[String], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        table.entry(first.clone()).or_insert(value);
        return;
    }
    let next = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
    let next = next.as_table_mut().expect("the schema has no key that is a value and a table");
    insert(next, rest, value);
}

/// The values of nested tables with their paths. The parser has bounded how deep they are.
fn flatten(value: Value, path: KeyPath, found: &mut Vec<(KeyPath, Value)>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                flatten(value, path.iter().cloned().chain(iter::once(key)).collect(), found);
            }
        }
        value => found.push((path, value)),
    }
}

/// As [`flatten`], with the offsets of the values in the text.
fn flatten_spanned<'a>(
    table: &DeTable<'a>,
    path: &mut KeyPath,
    found: &mut Vec<(KeyPath, usize, Spanned<DeValue<'a>>)>,
) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(table) if !table.is_empty() => flatten_spanned(table, path, found),
            _ => found.push((path.clone(), key.span().start, value.clone())),
        }
        path.pop();
    }
}

/// What the names of our variables begin with, in lower case.
const ENV_PREFIX: &str = "flotilla_";

/// The keys whose values are secrets.
const SECRET_KEYS: [&[&str]; 1] = [&["cluster", "secret"]];

/// No key is longer; it keeps a hostile argument from nesting tables without end.
const KEY_PARTS_MAX: usize = 16;
