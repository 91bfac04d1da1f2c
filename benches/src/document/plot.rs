//! Pictures of a comparison, as SVG whose text the viewer sets.

use std::error::Error as StdError;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Error;
use crate::compare::{Results, Turn, layout_name};
use crate::load::Outcome;
use crate::statistics::{median, percentile};

const WIDTH: u32 = 820;
/// Room for names, left of the bars.
const NAMES: u32 = 290;
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const OURS_IN_POSTGRES: RGBColor = RGBColor(0x9c, 0xc4, 0xe4);
const THEIRS: RGBColor = RGBColor(0x8a, 0x8a, 0x8a);
const THEIRS_IN_POSTGRES: RGBColor = RGBColor(0xc8, 0xc8, 0xc8);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xe2, 0xe2, 0xe2);

/// A bar, of parts that stand behind each other, with a dot for each round.
struct Bar {
    name: String,
    parts: Vec<(f64, RGBColor)>,
    dots: Vec<f64>,
}

impl Bar {
    fn of(name: impl Into<String>, of_rounds: Vec<f64>, color: RGBColor) -> Self {
        Self { name: name.into(), parts: vec![(median(&of_rounds), color)], dots: of_rounds }
    }

    fn total(&self) -> f64 {
        self.parts.iter().map(|(length, _)| length).sum()
    }
}

/// Reports by second: a bar to the median, a dot for each round.
pub(super) fn rates(results: &Results) -> Result<String, Error> {
    let rates = |turns: &[Turn]| turns.iter().map(|turn| turn.outcome.rate()).collect::<Vec<_>>();
    let mut bars = vec![Bar::of("baseline", rates(&results.baseline), THEIRS)];
    if let Some((_, turns)) = &results.victoria {
        bars.push(Bar::of("VictoriaMetrics", rates(turns), THEIRS));
    }
    bars.push(Bar::of("enlist-server", rates(&results.enlist), OURS));
    bars.push(Bar::of("store contract", results.contract.clone(), OURS));
    for (layout, rates) in &results.floors {
        let layout = layout_name(*layout).trim_start_matches(", ");
        let name = if layout.is_empty() { "engine floor".to_owned() } else { format!("floor: {layout}") };
        bars.push(Bar::of(name, rates.clone(), THEIRS));
    }
    draw_bars("Reports by second: the median, and each round", &bars)
}

/// CPU a report, of the server and, in a lighter shade, of PostgreSQL.
pub(super) fn cpu(results: &Results) -> Result<String, Error> {
    let bar = |name: &str, turns: &[Turn], colors: [RGBColor; 2]| {
        let middle = |figure: fn(&Outcome) -> Option<f64>| {
            let figures: Option<Vec<f64>> = turns.iter().map(|turn| figure(&turn.outcome)).collect();
            figures.as_deref().map(median)
        };
        let parts = [middle(Outcome::server_micros), middle(Outcome::postgres_micros)];
        let parts = parts.into_iter().zip(colors).filter_map(|(micros, color)| Some((micros?, color)));
        Bar { name: name.to_owned(), parts: parts.collect(), dots: Vec::new() }
    };
    let bars = [
        bar("baseline", &results.baseline, [THEIRS, THEIRS_IN_POSTGRES]),
        bar("enlist-server", &results.enlist, [OURS, OURS_IN_POSTGRES]),
    ];
    let with_postgres = bars.iter().any(|bar| bar.parts.len() > 1);
    let of_whom = if with_postgres { "the server, and in a lighter shade PostgreSQL" } else { "the server" };
    draw_bars(&format!("CPU a report in microseconds: {of_whom}"), &bars)
}

/// Latency by percentile, over all rounds.
pub(super) fn latencies(results: &Results) -> Result<String, Error> {
    const PER_MILLE: [(usize, &str); 9] = [
        (100, "10 %"),
        (250, "25 %"),
        (500, "50 %"),
        (750, "75 %"),
        (900, "90 %"),
        (950, "95 %"),
        (990, "99 %"),
        (999, "99.9 %"),
        (1_000, "all"),
    ];
    let curve = |turns: &[Turn]| {
        let mut all: Vec<u32> = turns.iter().flat_map(|turn| turn.outcome.latencies.iter().copied()).collect();
        all.sort_unstable();
        let points = PER_MILLE.iter().enumerate().filter_map(|(place, (per_mille, _))| {
            // A logarithm has no zero.
            Some((place as i32, f64::from(percentile(&all, *per_mille)?.max(1)) / 1e3))
        });
        points.collect::<Vec<_>>()
    };
    let curves = [("baseline", curve(&results.baseline), THEIRS), ("enlist-server", curve(&results.enlist), OURS)];
    let all = || curves.iter().flat_map(|(_, points, _)| points.iter().map(|(_, latency)| *latency));
    let (least, most) = (all().fold(f64::MAX, f64::min).min(1.0), all().fold(1.0, f64::max));
    drawn(380, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("Latency in milliseconds: so many of the reports took no longer", text(17))
            .margin(12)
            .margin_right(40)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0..PER_MILLE.len() as i32 - 1, (least / 1.2..most * 1.2).log_scale())?;
        chart
            .configure_mesh()
            .x_labels(PER_MILLE.len())
            .x_label_formatter(&|place| PER_MILLE.get(*place as usize).map_or("", |(_, name)| *name).to_owned())
            .y_label_formatter(&|latency| format!("{latency}"))
            .label_style(text(13))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(WHITE)
            .draw()?;
        for (name, points, color) in &curves {
            let color = *color;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .label_font(text(14))
            .background_style(WHITE)
            .border_style(GRID)
            .draw()?;
        Ok(())
    })
}

fn draw_bars(title: &str, bars: &[Bar]) -> Result<String, Error> {
    let longest = bars.iter().flat_map(|bar| bar.dots.iter().copied().chain([bar.total()])).fold(1.0, f64::max);
    drawn(90 + 44 * bars.len() as u32, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, text(17))
            .margin(12)
            .margin_right(40)
            .x_label_area_size(36)
            .y_label_area_size(NAMES)
            // The first one on top; room for the figures behind the bars.
            .build_cartesian_2d(0.0..longest * 1.15, bars.len() as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_labels(8)
            .x_label_formatter(&|value| crate::compare::number(*value, 0))
            .label_style(text(13))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(WHITE)
            .draw()?;
        for (place, bar) in bars.iter().enumerate() {
            let (top, middle, bottom) = (place as f64 + 0.2, place as f64 + 0.5, place as f64 + 0.8);
            let mut from = 0.0;
            for (length, color) in &bar.parts {
                let corners = [(from, top), (from + length, bottom)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
                from += length;
            }
            chart.draw_series(bar.dots.iter().map(|dot| Circle::new((*dot, middle), 3, INK.stroke_width(1))))?;
            let name = text(14).pos(Pos::new(HPos::Right, VPos::Center));
            let (x, y) = chart.backend_coord(&(0.0, middle));
            area.draw(&Text::new(bar.name.clone(), (x - 8, y), name))?;
            let figure = text(13).pos(Pos::new(HPos::Left, VPos::Center));
            let end = bar.dots.iter().copied().fold(bar.total(), f64::max);
            let (x, y) = chart.backend_coord(&(end, middle));
            area.draw(&Text::new(crate::compare::number(bar.total(), 0), (x + 8, y), figure))?;
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn drawn(height: u32, draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn StdError>>) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)
            .map_err(Box::from)
            .and_then(|()| draw(&area))
            .and_then(|()| area.present().map_err(Box::from))
            .map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_its_figure_and_a_dot_a_round() {
        let bars = [Bar::of("slow", vec![1_000.0, 3_000.0, 2_000.0], THEIRS), Bar::of("fast", vec![9_000.0], OURS)];
        let svg = draw_bars("title", &bars).expect("a picture");
        for word in ["title", "slow", "fast", "2,000", "9,000"] {
            assert!(svg.contains(word), "{word} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
