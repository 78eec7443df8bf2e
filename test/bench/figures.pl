# Reads the figures that test/bench/run has measured. To be read by report.pl
# and plot.pl.
#
# A line is QUESTION, CASE, TECHNIQUE, MEASURE and value, separated by tabs.
# There are as many lines of the same name as it was measured; their median
# counts.

use strict;
use warnings;

our (%figures, %order, %label);

%label = (
	none => 'no trigger', gen => 'generated', noop => 'no-op C', plpgsql => 'plpgsql', pair => 'two plpgsql',
	dw => 'pg_dualwrite', mirror => 'mirror alone', spin => 'bare process', dw_vacuum => '... and VACUUM',
	naive => 'one UPDATE', key => 'by key', block => 'by block',
	count => 'count(*)', query => 'one query', chunks => 'in chunks');

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

sub number
{
	my ($n) = @_;
	return sprintf($n >= 1000 ? '%.0f' : $n >= 100 ? '%.1f' : $n >= 10 ? '%.2f' : '%.3f', $n);
}

1;
