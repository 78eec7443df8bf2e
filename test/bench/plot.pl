#!/usr/bin/perl
# Draws the figures of test/bench/run as an SVG: bars, a panel a comparison.
#
#     plot.pl FIGURES > FILE.svg

use strict;
use warnings;
use FindBin;
require "$FindBin::Bin/figures.pl";

our (%figures, %order, %label);

# Lengths in pixels. Four panels stand side by side, and share the names of the
# techniques at their left.
my $width = 900;
my $margin = 24;
my $names = 96;
my $gap = 52;
my $panel = ($width - 2 * $margin - $names - 4 * $gap) / 4;	# a label is as wide as a gap
my $line = 20;
my $bar = 13;

my %colour = (dw => '#1f6feb', other => '#b6bec8', text => '#1f2328', faint => '#656d76', rule => '#d0d7de');

my $svg = '';
my $y = $margin;

sub two_places { return sprintf '%.2f', $_[0] }
sub three_digits { return sprintf($_[0] >= 100 ? '%.0f' : $_[0] >= 10 ? '%.1f' : '%.2f', $_[0]) }

sub text
{
	my ($x, $at, $what, %how) = @_;

	$what =~ s/&/&amp;/g;
	$what =~ s/</&lt;/g;
	$svg .= sprintf qq{<text x="%.1f" y="%.1f" font-size="%d" fill="%s" text-anchor="%s"%s>%s</text>\n},
		$x, $at, $how{size} // 12, $how{fill} // $colour{text}, $how{anchor} // 'start',
		$how{bold} ? ' font-weight="600"' : '', $what;
	return;
}

sub rectangle
{
	my ($x, $at, $w, $h, $fill) = @_;
	$svg .= sprintf qq{<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>\n}, $x, $at, $w, $h, $fill;
	return;
}

# One row of panels with the same techniques: their names, then for each panel
# a title and the values; a technique without value has no bar. All panels of
# a row have the same scale.
sub panels
{
	my ($title, $techniques, $columns, $format) = @_;
	my @values = grep { defined } map { values %{$_->{values}} } @$columns;
	return unless @values;
	my $most = (sorted(@values))[-1];

	text($margin, $y + 14, $title, size => 15, bold => 1);
	$y += 40;
	for my $i (0 .. $#$columns)
	{
		my $x = $margin + $names + $i * ($panel + $gap);
		text($x, $y, $columns->[$i]{title}, fill => $colour{faint});
		rectangle($x - 1, $y + 8, 1, $line * @$techniques, $colour{rule});
	}
	$y += 8;
	foreach my $technique (@$techniques)
	{
		my $ours = $technique =~ /^dw|^mirror/ || !defined $label{$technique};
		text($margin + $names - 8, $y + 14, $label{$technique} // $technique, anchor => 'end', bold => $ours);
		for my $i (0 .. $#$columns)
		{
			my $value = $columns->[$i]{values}{$technique};
			next unless defined $value;
			my $x = $margin + $names + $i * ($panel + $gap);
			my $length = $value / $most * $panel;
			rectangle($x, $y + ($line - $bar) / 2, $length > 1 ? $length : 1, $bar, $ours ? $colour{dw} : $colour{other});
			text($x + $length + 4, $y + 14, $format->($value), size => 11, bold => $ours);
		}
		$y += $line;
	}
	$y += 28;
	return;
}

# A panel of what each technique takes, as a multiple of one of them.
sub multiples
{
	my ($title, $question, $case, $measure, $techniques, $of) = @_;
	my %values = map { $_ => ratio(figure($question, $case, $_, $measure), figure($question, $case, $of, $measure)) } @$techniques;
	return { title => $title, values => \%values };
}

# A panel of figures as they are.
sub figures
{
	my ($title, $question, $case, $measure, $techniques) = @_;
	my %values = map { $_ => figure($question, $case, $_, $measure) } @$techniques;
	return { title => $title, values => \%values };
}

sub draw_mirror
{
	my @techniques = qw(none gen noop plpgsql pair dw);
	my %statement = (insert => 'INSERT', copy => 'COPY', update_old => 'UPDATE of the old column', update_other => 'UPDATE of another');

	panels('What a written row costs: instructions, without a trigger = 1', \@techniques,
		[ map { multiples($statement{$_}, 'mirror', "row/$_", 'instructions', \@techniques, 'none') } qw(insert copy update_old update_other) ], \&two_places);
	return;
}

sub draw_backfill
{
	my @techniques = qw(naive key block dw);

	push @techniques, 'dw_vacuum' if $figures{backfill}{random}{dw_vacuum};
	foreach my $case ([ 'sequential', 'keys in the order of the table' ], [ 'random', 'keys in another order than the table' ])
	{
		panels("What a backfill costs, $case->[1]", \@techniques,
			[
				multiples('CPU time, one UPDATE = 1', 'backfill', $case->[0], 'cpu', \@techniques, 'naive'),
				multiples('WAL, one UPDATE = 1', 'backfill', $case->[0], 'wal', \@techniques, 'naive'),
				figures('table, before = 1', 'backfill', $case->[0], 'heap, to before', \@techniques),
				figures('index, before = 1', 'backfill', $case->[0], 'indexes, to before', \@techniques)
			], \&two_places);
	}
	return;
}

sub draw_latency
{
	my @techniques = qw(none mirror spin dw naive);
	local $label{none} = 'no backfill';

	panels('What the application feels: latency, ms', \@techniques,
		[ map { figures($_, 'latency', $_, 'latency', \@techniques) } qw(p50 p95 p99 longest) ], \&three_digits);
	return;
}

sub draw_verify
{
	my @techniques = qw(count dw_query dw_chunks);
	my @columns = map { multiples($_, 'verify', $_, 'cpu', [qw(count query chunks)], 'count') } qw(integer numeric);
	local @label{qw(dw_query dw_chunks)} = @label{qw(query chunks)};

	$_->{values} = { count => $_->{values}{count}, dw_query => $_->{values}{query}, dw_chunks => $_->{values}{chunks} } foreach @columns;
	panels('What comparing every row costs: CPU time, count(*) = 1', \@techniques,
		\@columns, \&two_places);
	return;
}

sub draw_growth
{
	my @sizes = map { s/ rows$//r } @{$order{cases}{'growth time'} // []};
	my %title = (cpu => 'CPU time', time => 'time, at half duty');

	panels('What a row costs in a larger table: microseconds a row, by rows in the table', \@sizes,
		[
			map
			{
				my $measure = $_;
				{ title => $title{$measure}, values => { map { $_ => figure('growth', "$_ rows", 'dw', $measure) } @sizes } }
			} qw(cpu time)
		], \&two_places);
	return;
}

read_figures();
draw_mirror();
draw_backfill();
draw_latency();
draw_verify();
draw_growth();
printf qq{<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif">\n},
	$width, $y, $width, $y;
print qq{<rect width="100%" height="100%" rx="6" fill="#ffffff"/>\n}, $svg, "</svg>\n";
