#!/usr/bin/perl
# Turns the figures of test/bench/run into tables, and says for each bar
# whether it holds.
#
#     report.pl FIGURES               every table and every bar
#     report.pl --summary FIGURES     a Markdown table: the worst shape of each bar
#
# The exit status is 1 if a bar is missed.

use strict;
use warnings;
use FindBin;
require "$FindBin::Bin/figures.pl";
require "$FindBin::Bin/bars.pl";

our (%figures, %order, %label);

my %question = (
	mirror => 'What a written row costs (mirror)',
	backfill => 'What it costs to fill the rows that are there (backfill)',
	latency => 'What the application feels (latency)',
	verify => 'What it costs to compare every row (verify)',
	growth => 'Does the backfill cost more on a larger table? (growth)');

# Title, and whether it is shown as a multiple of the first technique's, too.
my %measure = (
	instructions => [ 'instructions a row, in the executor', 1 ],
	cpu => [ 'CPU time, microseconds a row', 1 ],
	wal => [ 'WAL, bytes a row', 1 ],
	time => [ 'time, microseconds a row' ],
	latency => [ 'latency, ms', 1 ]);

my @bars;

# Called by bars.pl, with what, where (a shape of row or table), the figure and
# its limit. What wasn't measured is neither held nor missed.
sub bar
{
	my ($id, $what, $where, $value, $limit) = @_;
	return unless defined $value;
	push @bars, { id => $id, what => $what, where => $where, value => $value, limit => $limit, ok => $value <= $limit };
	return;
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
		my (@absolute, @relative, @spread);
		my $base = figure($question, $case, $first, $measure);

		foreach my $technique (@techniques)
		{
			my $value = figure($question, $case, $technique, $measure);
			my @all = sorted(@{$figures{$question}{$case}{$technique}{$measure} // []});

			push @absolute, defined $value ? number($value) : '';
			push @relative, defined $value && $base ? sprintf('x%.3f', $value / $base) : '';
			push @spread, @all > 1 ? number($all[0]) . '..' . number($all[-1]) : '';
		}
		table_line($case, @absolute);
		table_line('', @relative) if $relative && $base && @techniques > 1;
		table_line('  min..max', @spread) if grep { $_ ne '' } @spread;
	}
	return;
}

sub table_line
{
	my ($name, @cells) = @_;
	my $line = sprintf '%-22s%s', $name, join '', map { sprintf ' %14s', $_ } @cells;
	$line =~ s/\s+$//;
	print "$line\n";
	return;
}

sub report
{
	my $missed = grep { !$_->{ok} } @bars;

	foreach my $question (@{$order{questions}{''}})
	{
		printf "\n== %s\n", $question{$question} // $question;
		table($question, $_) foreach @{$order{measures}{$question}};
	}
	print "\n== Bars\n\n";
	printf "%-4s %-68s %8.3f  <= %-6s %s\n", $_->{id}, "$_->{where}: $_->{what}", $_->{value}, $_->{limit}, $_->{ok} ? 'ok' : 'FAIL'
		foreach @bars;
	printf "\n%d bars held, %d missed\n", @bars - $missed, $missed;
	return;
}

# One line a bar, with its worst shape and how many there were.
sub summary
{
	my (@order, %group);

	foreach my $bar (@bars)
	{
		my $name = join "\t", @$bar{qw(id what limit)};
		push @order, $name unless $group{$name};
		push @{$group{$name}}, $bar;
	}
	print "| bar | what is compared | best | worst | at most | |\n|---|---|---|---|---|---|\n";
	foreach my $name (@order)
	{
		my @all = sort { $a->{value} <=> $b->{value} } @{$group{$name}};
		my $missed = grep { !$_->{ok} } @all;

		printf "| %s | %s | %s | %s | %s | %s |\n", @{$all[0]}{qw(id what)}, @all > 1 ? cell($all[0]) : '', cell($all[-1]), $all[0]{limit},
			!$missed ? 'holds' : @all == 1 ? 'missed' : "missed by $missed of " . @all;
	}
	return;
}

sub cell
{
	my ($bar) = @_;
	my $where = $bar->{where};
	$where =~ tr/_/ /;
	return sprintf '%.3f, %s', $bar->{value}, $where;
}

my $summary = @ARGV && $ARGV[0] eq '--summary' ? shift @ARGV : '';
read_figures();
bars();
$summary ? summary() : report();
exit((grep { !$_->{ok} } @bars) ? 1 : 0);
