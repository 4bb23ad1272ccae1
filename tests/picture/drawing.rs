//! Lines over time as SVG, for light and dark pages.

use std::fmt::Write;

pub struct Line {
    pub name: &'static str,
    /// Seconds, and the value then.
    pub points: Vec<(f64, f64)>,
}

pub struct Panel {
    pub title: &'static str,
    pub lines: [Line; 2],
    /// Seconds, and what began then.
    pub notes: Vec<(f64, &'static str)>,
}

pub struct Drawing {
    pub seconds: f64,
    pub panels: Vec<Panel>,
}

const WIDTH: f64 = 840.0;
const LEFT: f64 = 72.0;
/// Room for the names of the lines.
const RIGHT: f64 = 76.0;
const PANEL: f64 = 210.0;
/// Of a panel, what its title takes, and what is below its axis.
const ABOVE: f64 = 42.0;
const BELOW: f64 = 14.0;
const FOOT: f64 = 30.0;

const STYLE: &str = "
  svg { color-scheme: light dark; font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif }
  .page { fill: #fcfcfb } .title { fill: #0b0b0b; font-weight: 600 }
  .text { fill: #52514e } .grid { stroke: #e1e0d9 } .axis { stroke: #b5b3aa }
  .mark { stroke: #898781; stroke-dasharray: 2 3 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  .line0 { stroke: #2a78d6 } .line1 { stroke: #eb6834 }
  .name { font-weight: 600 } .name0 { fill: #2a78d6 } .name1 { fill: #c04a1a }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1a1a19 } .title { fill: #ffffff }
    .text { fill: #c3c2b7 } .grid { stroke: #2c2c2a } .axis { stroke: #55544f }
    .line0 { stroke: #3987e5 } .line1 { stroke: #d95926 }
    .name0 { fill: #6aa8f0 } .name1 { fill: #ee7d4f }
  }
";

impl Drawing {
    pub fn svg(&self) -> String {
        let height = PANEL * self.panels.len() as f64 + FOOT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
             <title>Relations, and dead rows in the catalogs, of two databases over time</title>\n\
             <style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n"
        );
        for (i, panel) in self.panels.iter().enumerate() {
            self.draw(&mut svg, panel, PANEL * i as f64).unwrap();
        }
        let y = height - FOOT + 12.0;
        for seconds in (0..=self.seconds as u32).step_by(20) {
            let (x, text) = (self.x(seconds.into()), format!("{seconds} s"));
            label(&mut svg, x, y, "text", "middle", &text).unwrap();
        }
        svg + "</svg>\n"
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds
    }

    fn draw(&self, svg: &mut String, panel: &Panel, top: f64) -> std::fmt::Result {
        let values = panel.lines.iter().flat_map(|line| &line.points);
        let most = values.map(|(_, value)| *value).fold(1.0, f64::max);
        let step = round_step(most / 4.0);
        let (upper, lower) = (top + ABOVE, top + PANEL - BELOW);
        // The notes have a line of their own above what is drawn.
        let steps = (most / step).ceil();
        let y = |value: f64| lower - (lower - upper - 22.0) * value / (steps * step);
        label(svg, 16.0, top + 26.0, "title", "start", panel.title)?;
        let right = self.x(self.seconds);
        for i in 0..=steps as u32 {
            let value = f64::from(i) * step;
            let class = if i == 0 { "axis" } else { "grid" };
            let y = y(value);
            writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{right:.1}\"/>"
            )?;
            label(svg, LEFT - 8.0, y + 4.0, "text", "end", &thousands(value))?;
        }
        for (seconds, text) in &panel.notes {
            let x = self.x(*seconds);
            writeln!(
                svg,
                "<path class=\"mark\" d=\"M{x:.1} {:.1}V{lower:.1}\"/>",
                upper - 6.0
            )?;
            // Towards where there is room.
            let (x, anchor) = if *seconds > 0.8 * self.seconds {
                (x - 5.0, "end")
            } else {
                (x + 5.0, "start")
            };
            label(svg, x, upper + 5.0, "text", anchor, text)?;
        }
        let ends = panel.lines.iter().map(|line| line.points.last().unwrap().1);
        let mut ends: Vec<f64> = ends.map(|end| y(end) + 4.0).collect();
        if (ends[0] - ends[1]).abs() < 15.0 {
            let (first, second) = if ends[0] <= ends[1] { (0, 1) } else { (1, 0) };
            ends[first] = ends[second] - 15.0;
        }
        for (i, line) in panel.lines.iter().enumerate() {
            let points = line.points.iter();
            let points: Vec<String> = points
                .map(|(seconds, value)| format!("{:.1} {:.1}", self.x(*seconds), y(*value)))
                .collect();
            writeln!(
                svg,
                "<path class=\"line line{i}\" d=\"M{}\"/>",
                points.join("L")
            )?;
            label(
                svg,
                right + 8.0,
                ends[i],
                &format!("name name{i}"),
                "start",
                line.name,
            )?;
        }
        Ok(())
    }
}

fn label(
    svg: &mut String,
    x: f64,
    y: f64,
    class: &str,
    anchor: &str,
    text: &str,
) -> std::fmt::Result {
    writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    )
}

/// The least of 1, 2 and 5 times a power of ten that is not smaller.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut steps = factors.map(|factor| factor * power);
    steps.find(|step| *step >= least).unwrap()
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    match digits.len() {
        0..=3 => digits,
        length => format!("{},{}", &digits[..length - 3], &digits[length - 3..]),
    }
}
