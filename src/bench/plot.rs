//! Latency by percentile as a picture: an SVG file that needs nothing else, for light and dark backgrounds.
//!
//! To the right each step is another nine: 90 %, 99 %, 99.9 % and so on, for that is where latencies differ. Both axes are
//! logarithmic.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::report::span;

/// A named distribution of nanoseconds.
pub(super) type Series<'a> = (&'static str, &'a Histogram<u64>);

/// The picture. Series without values are left out.
pub(super) fn draw(title: &str, series: &[Series<'_>]) -> String {
    let series: Vec<_> = series.iter().filter(|(_, histogram)| !histogram.is_empty()).copied().collect();
    let axes = Axes::around(&series);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write_head(&mut svg, title);
    let _ = write_axes(&mut svg, &axes);
    for (index, (name, histogram)) in series.iter().enumerate() {
        let _ = write_series(&mut svg, &axes, index, name, histogram);
    }
    svg.push_str("</svg>\n");
    svg
}

/// What the picture shows.
#[derive(Debug)]
struct Axes {
    /// Nines, to the right.
    nines: f64,
    /// Powers of ten of microseconds, from the bottom to the top.
    low: f64,
    high: f64,
}

impl Axes {
    #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
    fn around(series: &[Series<'_>]) -> Self {
        let most = series.iter().map(|(_, histogram)| histogram.len()).max().unwrap_or(1);
        let lowest = series.iter().map(|(_, histogram)| histogram.min()).min().unwrap_or(1_000);
        let highest = series.iter().map(|(_, histogram)| histogram.max()).max().unwrap_or(1_000_000);
        let power = |nanos: u64| (nanos.max(1_000) as f64 / 1e3).log10();
        let low = power(lowest).floor();
        // As far as there are values: one of ten thousand says nothing about 99.999 %.
        let nines = (most as f64).log10().ceil().clamp(2.0, NINES_MAX);
        Self { nines, low, high: power(highest).ceil().max(low + 1.0) }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * nines / self.nines
    }

    fn y(&self, micros: f64) -> f64 {
        let part = (micros.max(1e-3).log10() - self.low) / (self.high - self.low);
        BOTTOM - (BOTTOM - TOP) * part.clamp(0.0, 1.0)
    }

    fn nines(&self) -> impl Iterator<Item = u32> {
        let last = self.nines;
        (0..).take_while(move |nines| f64::from(*nines) <= last)
    }
}

fn write_head(svg: &mut String, title: &str) -> std::fmt::Result {
    let title = escaped(title);
    write!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">
<style>
text {{ font: 13px system-ui, sans-serif; }}
.back {{ fill: #ffffff; }}
text {{ fill: #24292f; }}
.title {{ font-size: 15px; font-weight: 600; }}
.grid {{ stroke: #d0d7de; stroke-width: 1; }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
.s0 {{ stroke: #0969da; }} .s1 {{ stroke: #bc4c00; }}
@media (prefers-color-scheme: dark) {{
.back {{ fill: #0d1117; }} text {{ fill: #e6edf3; }} .grid {{ stroke: #30363d; }}
.s0 {{ stroke: #58a6ff; }} .s1 {{ stroke: #f0883e; }}
}}
</style>
<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>
<text class="title" x="{LEFT}" y="26">{title}</text>
"#
    )
}

fn write_axes(svg: &mut String, axes: &Axes) -> std::fmt::Result {
    for nines in axes.nines() {
        let x = axes.x(nines.into());
        writeln!(svg, r#"<line class="grid" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{BOTTOM}"/>"#)?;
        let (label, y) = (percentile(nines), BOTTOM + 20.0);
        writeln!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{label}</text>"#)?;
    }
    let mut micros = 10_f64.powf(axes.low);
    while micros <= 10_f64.powf(axes.high) * 1.001 {
        let y = axes.y(micros);
        writeln!(svg, r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}"/>"#)?;
        let (x, y, label) = (LEFT - 8.0, y + 4.5, axis_span(micros));
        writeln!(svg, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{label}</text>"#)?;
        micros *= 10.0;
    }
    let (middle, below) = (f64::midpoint(LEFT, RIGHT), BOTTOM + 44.0);
    writeln!(svg, r#"<text x="{middle}" y="{below}" text-anchor="middle">percentile</text>"#)?;
    let middle = f64::midpoint(TOP, BOTTOM);
    writeln!(
        svg,
        r#"<text x="20" y="{middle}" text-anchor="middle" transform="rotate(-90 20 {middle})">latency</text>"#
    )
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn write_series(
    svg: &mut String,
    axes: &Axes,
    index: usize,
    name: &str,
    histogram: &Histogram<u64>,
) -> std::fmt::Result {
    let most = (histogram.len() as f64).log10().min(axes.nines);
    write!(svg, r#"<polyline class="line s{index}" points=""#)?;
    let mut step = 0;
    loop {
        let nines = (f64::from(step) / STEPS).min(most);
        // The line ends at the slowest of all, which no quantile below 1 is.
        let is_last = nines >= most;
        let quantile = if is_last { 1.0 } else { 1.0 - 10_f64.powf(-nines) };
        let micros = histogram.value_at_quantile(quantile) as f64 / 1e3;
        write!(svg, "{:.1},{:.1} ", axes.x(nines), axes.y(micros))?;
        if is_last {
            break;
        }
        step += 1;
    }
    writeln!(svg, r#""/>"#)?;
    let x = RIGHT - 190.0 * f64::from(u32::try_from(index + 1).unwrap_or(1));
    writeln!(svg, r#"<line class="line s{index}" x1="{x}" y1="22" x2="{}" y2="22"/>"#, x + 24.0)?;
    writeln!(svg, r#"<text x="{}" y="26">{}</text>"#, x + 30.0, escaped(name))
}

/// 0 %, 90 %, 99 %, 99.9 %.
fn percentile(nines: u32) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        _ => format!("99.{} %", "9".repeat(nines as usize - 2)),
    }
}

/// A power of ten of microseconds, which needs no decimals.
fn axis_span(micros: f64) -> String {
    match micros {
        _ if micros < 999.0 => span(micros),
        _ if micros < 999_000.0 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.0} s", micros / 1e6),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 830.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 400.0;
/// Points for each nine.
const STEPS: f64 = 24.0;
const NINES_MAX: f64 = 6.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl Iterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).unwrap();
        values.for_each(|micros| histogram.saturating_record(micros * 1_000));
        histogram
    }

    /// The points of the lines.
    fn points(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let lines = svg.lines().filter(|line| line.starts_with("<polyline"));
        let point = |pair: &str| {
            let (x, y) = pair.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        let of_line = |line: &str| line.split('"').nth(3).unwrap().split_whitespace().map(point).collect();
        lines.map(of_line).collect()
    }

    #[test]
    fn the_points_are_where_the_axes_say() {
        // From 10 µs to 100 ms, nearly: half of all are at the one end, and the slowest of a thousand is at the other.
        let slow = histogram((0..1_000).map(|number| match number {
            0..500 => 11,
            500..999 => 1_000,
            _ => 95_000,
        }));
        let svg = draw("t", &[("delivery", &slow)]);
        let points = &points(&svg)[0];
        let near = |value: f64, expected: f64| (value - expected).abs() < 5.0;
        let first = points.first().unwrap();
        assert!(near(first.0, LEFT) && near(first.1, BOTTOM), "{first:?}");
        let last = points.last().unwrap();
        assert!(near(last.0, RIGHT) && near(last.1, TOP), "{last:?}");
        // 90 % is one of three nines, and 1 ms two of four powers of ten.
        let ninety = points.iter().find(|point| near(point.0, LEFT + (RIGHT - LEFT) / 3.0)).unwrap();
        assert!(near(ninety.1, f64::midpoint(TOP, BOTTOM)), "{ninety:?}");
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1));
        for label in ["90 %", "99 %", "99.9 %", "10 µs", "1 ms", "100 ms", "percentile", "latency"] {
            assert!(svg.contains(&format!(">{label}</text>")), "{label}");
        }
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn what_has_no_values_is_left_out() {
        let (some, none) = (histogram(1..100), histogram(std::iter::empty()));
        assert_eq!(points(&draw("t", &[("a", &none), ("b", &some), ("c", &some)])).len(), 2);
        assert!(draw("t", &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn text_cannot_become_markup() {
        let svg = draw(r#"<a href="x">&"#, &[]);
        assert!(svg.contains("&lt;a href=&quot;x&quot;&gt;&amp;"));
    }
}
