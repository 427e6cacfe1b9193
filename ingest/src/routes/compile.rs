//! From a `[[route]]` table to a checked route.

use jiff::tz::TimeZone;
use model::glob::Glob;

use super::RouteError;
use super::condition::When;
use super::config::{Decimal, Epoch, Format, Kind, Literal, OneOrMany, RetainedMessages, Route, Strings};
use super::fields::Fields;
use super::path::Path;
use super::template::{Source, Template};
use super::topic::{CLIENT, Pattern};
use crate::decode::coercion::Coercion;
use crate::decode::plain::Bare;
use crate::decode::time;

/// A checked route.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) number: usize,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) when: When,
    pub(crate) go_on: bool,
    pub(crate) format: Format,
    pub(crate) device: Template,
    pub(crate) prefix: Template,
    pub(crate) field: Template,
    pub(crate) each: Vec<Path>,
    pub(crate) root: Vec<Path>,
    pub(crate) value: Vec<Path>,
    pub(crate) time: Vec<TimeSource>,
    pub(crate) times: time::Rules,
    /// Index in `time` of the default name `time`, which some devices use for a duration.
    pub(crate) duration: Option<usize>,
    pub(crate) lenient: bool,
    pub(crate) json_text: Vec<Glob>,
    pub(crate) coercion: Coercion,
    pub(crate) include: Vec<Glob>,
    pub(crate) exclude: Vec<Glob>,
    pub(crate) fields: Fields,
    pub(crate) strings: Strings,
    pub(crate) retained: RetainedMessages,
    pub(crate) role: Role,
}

/// The way to read the messages of a route.
#[derive(Debug)]
pub(crate) enum Role {
    /// They are not read.
    Ignored,
    /// In one pass: every time is a name of a flat row, and there are no paths.
    Streamed,
    /// As a tree, with paths.
    Tree,
    /// As online or offline.
    Presence(Presence),
}

/// The source of a time.
#[derive(Debug)]
pub(crate) enum TimeSource {
    /// A name in the flat row, and the same as a path in the row.
    Name(String, Path),
    /// A path anywhere in the document.
    Path(Path),
    Template(Template),
}

#[derive(Debug)]
pub(crate) struct Presence {
    /// Templates of the state, of which the first one present counts.
    pub(crate) state: Vec<Template>,
    /// In lower case.
    pub(crate) online: Vec<String>,
    pub(crate) offline: Vec<String>,
}

impl Compiled {
    /// True when all values are stored as they are.
    pub(crate) fn takes_all(&self) -> bool {
        self.include.is_empty()
            && self.exclude.is_empty()
            && self.fields.is_empty()
            && self.strings == Strings::Keep
            && self.coercion.is_empty()
    }

    /// Returns the rules for bare values.
    pub(crate) fn bare(&self) -> Bare {
        Bare {
            checks_format: self.format == Format::JsonOrValue && !matches!(self.role, Role::Presence(_)),
            decimal_comma: self.coercion.decimal_comma,
        }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        (self.include.is_empty() || self.include.iter().any(|glob| glob.matches(name)))
            && !self.exclude.iter().any(|glob| glob.matches(name))
    }

    /// True when no message of a matching topic reaches a later route.
    pub(super) fn ends(&self) -> bool {
        self.when.is_empty() && !self.go_on && self.retained == RetainedMessages::Accept
    }
}

/// Checks one table.
pub(super) fn compile(number: usize, route: &Route) -> Result<Compiled, RouteError> {
    let fault = |key: &'static str| move |what: String| RouteError { number, key, what };
    if route.topic.all().is_empty() {
        return Err(fault("topic")("a route needs at least one topic template".into()));
    }
    let patterns: Vec<Pattern> =
        route.topic.all().iter().map(|t| Pattern::parse(t)).collect::<Result<_, _>>().map_err(fault("topic"))?;
    let paths = |list: &OneOrMany| list.all().iter().map(|p| Path::parse(p)).collect::<Result<Vec<_>, String>>();
    let plain = |list: &OneOrMany| match paths(list)? {
        paths if paths.iter().all(|path| path.keys().is_empty()) => Ok(paths),
        _ => Err("`.{name}` is possible in `each` only".into()),
    };
    let each = paths(&route.each).map_err(fault("each"))?;
    let captured = |name: &str| name == CLIENT || patterns.iter().all(|p| p.has_capture(name));
    let keyed = |name: &str| !each.is_empty() && each.iter().all(|path| path.keys().contains(&name));
    if let Some(name) = each.iter().flat_map(Path::keys).find(|name| captured(name)) {
        return Err(fault("each")(format!("`{{{name}}}` is captured by the topic too")));
    }
    let template = |text: &str| check_captures(Template::parse(text)?, &captured, &keyed);
    let ignored = route.kind == Kind::Ignore;
    let device = if ignored { Template::default() } else { template(&route.device).map_err(fault("device"))? };
    let field = match (route.field.as_str(), route.kind) {
        ("", Kind::Presence) => "online",
        ("", _) => "value",
        (field, _) => field,
    };
    let state = states(route, &template).map_err(fault("state"))?;
    let mut compiled = Compiled {
        number,
        when: When::new(&route.when, captured).map_err(fault("when"))?,
        go_on: route.go_on,
        format: route.format,
        device,
        prefix: template(&route.prefix).map_err(fault("prefix"))?,
        field: template(field).map_err(fault("field"))?,
        root: plain(&route.root).map_err(fault("root"))?,
        value: plain(&route.value).map_err(fault("value"))?,
        time: times(route, &template).map_err(fault("time"))?,
        times: time::Rules {
            format: time::Format::parse(&route.time_format).map_err(fault("time_format"))?,
            zone: TimeZone::get(&route.zone).map_err(|_| {
                fault("zone")(format!("`{}` is not a time zone: use a name such as `Europe/Berlin`", route.zone))
            })?,
            local_numbers: route.epoch == Epoch::Local,
        },
        duration: (route.time == Route::default().time)
            .then(|| route.time.all().iter().position(|name| name == "time"))
            .flatten(),
        lenient: route.lenient,
        json_text: route.json_text.iter().map(|g| Glob::new(g)).collect(),
        coercion: Coercion {
            unit_suffix: route.unit_suffix,
            decimal_comma: route.decimal == Decimal::Comma,
            null_values: route.null_values.clone(),
        },
        include: route.include.iter().map(|g| Glob::new(g)).collect(),
        exclude: route.exclude.iter().map(|g| Glob::new(g)).collect(),
        fields: Fields::new(&route.fields).map_err(fault("fields"))?,
        strings: route.strings,
        retained: route.retained,
        role: Role::Ignored,
        each: each.clone(),
        patterns: patterns.clone(),
    };
    compiled.role = role(route, &compiled, state);
    Ok(compiled)
}

fn check_captures(
    mut template: Template,
    captured: &impl Fn(&str) -> bool,
    keyed: &impl Fn(&str) -> bool,
) -> Result<Template, String> {
    template.name_keys(keyed);
    for source in template.sources() {
        if let Source::Capture(name) = source
            && !captured(name)
        {
            return Err(format!("`{{{name}}}` is not captured by every topic template"));
        }
    }
    Ok(template)
}

fn times(route: &Route, template: &impl Fn(&str) -> Result<Template, String>) -> Result<Vec<TimeSource>, String> {
    let mut sources = Vec::new();
    for text in route.time.all() {
        sources.push(match text.as_str() {
            "" => return Err("a name is empty".into()),
            path if path.starts_with(['$', '@']) => {
                let path = Path::parse(path)?;
                match path.flat_name() {
                    Some(name) if !path.of_document() || route.each.all().is_empty() => TimeSource::Name(name, path),
                    _ => TimeSource::Path(path),
                }
            }
            text if text.contains('{') => TimeSource::Template(template(text)?),
            name => TimeSource::Name(name.into(), Path::parse(&format!("@.{name}"))?),
        });
    }
    // Rows without a time of their own have the time of the document.
    if !route.each.all().is_empty() && route.time == Route::default().time {
        for name in route.time.all() {
            sources.push(TimeSource::Path(Path::parse(&format!("$.{name}"))?));
        }
    }
    Ok(sources)
}

fn states(route: &Route, template: &impl Fn(&str) -> Result<Template, String>) -> Result<Vec<Template>, String> {
    match (route.kind, route.state.as_str()) {
        (Kind::Data | Kind::Ignore, "") => Ok(Vec::new()),
        (Kind::Data | Kind::Ignore, _) => Err("only a route of kind `presence` has a state".into()),
        (Kind::Presence, "") => Ok(vec![template("{$}")?, template("{$.state}")?]),
        (Kind::Presence, path) if path.starts_with(['$', '@']) => Ok(vec![template(&format!("{{{path}}}"))?]),
        (Kind::Presence, text) => Ok(vec![template(text)?]),
    }
}

fn role(route: &Route, compiled: &Compiled, state: Vec<Template>) -> Role {
    match route.kind {
        Kind::Ignore => Role::Ignored,
        Kind::Presence => {
            Role::Presence(Presence { state, online: words(&route.online), offline: words(&route.offline) })
        }
        Kind::Data => {
            let plain = compiled.each.is_empty()
                && compiled.root.is_empty()
                && compiled.value.is_empty()
                && compiled.json_text.is_empty()
                && !compiled.when.reads_payload()
                && [&compiled.device, &compiled.prefix, &compiled.field].iter().all(|t| t.is_fixed())
                && compiled.time.iter().all(|t| matches!(t, TimeSource::Name(..)));
            if plain { Role::Streamed } else { Role::Tree }
        }
    }
}

/// Returns words in lower case, as they are compared.
fn words(list: &[Literal]) -> Vec<String> {
    list.iter().map(|word| word.text().to_lowercase()).collect()
}
