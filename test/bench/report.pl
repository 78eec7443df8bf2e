#!/usr/bin/perl
# Turns the figures of test/bench/run into tables, and says for each bar
# whether it holds.
#
#     report.pl FIGURES
#
# A line of FIGURES is QUESTION, CASE, TECHNIQUE, MEASURE and value, separated
# by tabs. There are as many lines of the same name as it was measured; their
# median counts. Bars are in bars.pl. The exit status is 1 if a bar is missed.

use strict;
use warnings;
use FindBin;

our (%figures, %order);

my %label = (
	none => 'no trigger', gen => 'generated', noop => 'no-op C', plpgsql => 'plpgsql',
	pair => 'two plpgsql', dw => 'pg_dualwrite', count => 'count(*)', query => 'one query', chunks => 'in chunks', dw_vacuum => '... and VACUUM',
	naive => 'one UPDATE', key => 'by key', block => 'by block');

my %question = (
	verify => 'What it costs to compare every row (verify)',
	latency => 'What the application feels (latency)',
	growth => 'Does the backfill cost more on a larger table? (growth)',
	mirror => 'What a written row costs (mirror)',
	backfill => 'What it costs to fill the rows that are there (backfill)');

# Title, and whether it is shown as a multiple of the first technique's, too.
my %measure = (
	instructions => [ 'instructions a row, in the executor', 1 ],
	cpu => [ 'CPU time, microseconds a row', 1 ],
	wal => [ 'WAL, bytes a row', 1 ],
	time => [ 'time, microseconds a row' ],
	latency => [ 'latency, ms', 1 ]);

sub read_figures
{
	while (my $line = <>)
	{
		chomp $line;
		my ($question, $case, $technique, $measure, $value) = split /\t/, $line;
		note(questions => '', $question);
		note(measures => $question, $measure);
		note(cases => "$question $measure", $case);
		note(techniques => "$question $measure", $technique);
		push @{$figures{$question}{$case}{$technique}{$measure}}, $value;
	}
	return;
}

# Things are told in the order in which they were measured.
sub note
{
	my ($kind, $of, $name) = @_;
	my $list = $order{$kind}{$of} //= [];
	push @$list, $name unless grep { $_ eq $name } @$list;
	return;
}

sub sorted { return sort { $a <=> $b } @_ }

sub median
{
	my @v = sorted(@_);
	return @v % 2 ? $v[@v / 2] : ($v[@v / 2 - 1] + $v[@v / 2]) / 2;
}

# The median of a figure; undefined if it wasn't measured.
sub figure
{
	my ($question, $case, $technique, $measure) = @_;
	my $values = $figures{$question}{$case}{$technique}{$measure};
	return $values ? median(@$values) : undef;
}

sub number
{
	my ($n) = @_;
	return $n >= 1000 ? sprintf('%.0f', $n) : $n >= 100 ? sprintf('%.1f', $n) : sprintf('%.3g', $n);
}

# Medians, then what they are to the first technique, then the spread.
sub table
{
	my ($question, $measure) = @_;
	my @techniques = @{$order{techniques}{"$question $measure"}};
	my $first = $techniques[0];

	my ($title, $relative) = @{$measure{$measure} // [$measure]};

	printf "\n%s\n%-22s%s\n", $title, '', join '', map { sprintf '%15s', $label{$_} // $_ } @techniques;
	foreach my $case (@{$order{cases}{"$question $measure"}})
	{
		my @spread;
		my $base = figure($question, $case, $first, $measure);
		my (@absolute, @relative);
		foreach my $technique (@techniques)
		{
			my $value = figure($question, $case, $technique, $measure);
			my @all = sorted(@{$figures{$question}{$case}{$technique}{$measure} // []});

			push @absolute, defined $value ? sprintf '%15s', number($value) : ' ' x 15;
			push @relative, defined $value && $base ? sprintf '%15.3f', $value / $base : ' ' x 15;
			push @spread, @all > 1 ? sprintf '%15s', number($all[0]) . '..' . number($all[-1]) : ' ' x 15;
		}
		printf "%-22s%s\n", $case, join '', @absolute;
		printf "%-22s%s\n", '  : ' . ($label{$first} // $first), join '', @relative if $relative && $base && @techniques > 1;
		printf "%-22s%s\n", '  min..max', join '', @spread if grep { /\S/ } @spread;
	}
	return;
}

my $missed = 0;

# One line a bar. What wasn't measured is neither held nor missed.
sub bar
{
	my ($id, $what, $value, $limit) = @_;
	return unless defined $value;
	my $ok = $value <= $limit;
	$missed++ unless $ok;
	printf "%-4s %-68s %8.3f  <= %-6s %s\n", $id, $what, $value, $limit, $ok ? 'ok' : 'FAIL';
	return;
}

sub ratio
{
	my ($above, $below) = @_;
	return defined $above && $below ? $above / $below : undef;
}

sub difference
{
	my ($a, $b) = @_;
	return defined $a && defined $b ? $a - $b : undef;
}

read_figures();
foreach my $question (@{$order{questions}{''}})
{
	printf "\n== %s\n", $question{$question} // $question;
	table($question, $_) foreach @{$order{measures}{$question}};
}
print "\n== Bars\n\n";
require "$FindBin::Bin/bars.pl";
bars();
print "\n", $missed ? "$missed bars missed" : 'every bar holds', "\n";
exit($missed ? 1 : 0);
