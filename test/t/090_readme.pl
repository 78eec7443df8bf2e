# README.md: its quick start is what sql/quickstart.sql tests, every statement
# that it shows works, and what it shows as output is what comes out.
#
# Blocks of ```sql run in the order of the page, in one database that is empty
# at the start. Where ```text follows directly (the lines between are blank),
# the block's output, notices and errors included, must be that text, and
# errors are part of the show; without it a block must run without an error.
# A block below <!-- not run --> is left out.
use strict;
use warnings;

use FindBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $readme = slurp_file("$top/README.md");

# ---- the quick start

my ($quickstart) = $readme =~ /<!-- quickstart -->\s*```sql\n(.*?)```\s*<!-- quickstart -->/s;
ok(defined $quickstart, 'README.md has a quick start between its markers');
is($quickstart // '', slurp_file("$top/sql/quickstart.sql"), 'it is sql/quickstart.sql, word for word');

# ---- all blocks

my @blocks;
while ($readme =~ /^((?:<!-- not run -->\n)?)```sql\n(.*?)^```\n(?:\s*```text\n(.*?)^```\n)?/gms)
{
	my $line = 1 + (substr($readme, 0, $-[2]) =~ tr/\n//);

	push @blocks, { line => $line, sql => $2, output => $3 } unless $1;
}
cmp_ok(scalar @blocks, '>', 10, 'README.md has blocks to run');

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 2\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE readme');

sub tidy
{
	my ($text) = @_;

	$text =~ s/[ \t]+$//gm;
	$text =~ s/\n+\z/\n/;
	return $text;
}

foreach my $block (@blocks)
{
	my $shown = defined $block->{output};
	my $out = '';
	my @psql = ('psql', '-XqAt', '-d', $node->connstr('readme'), '-v', 'ON_ERROR_STOP=' . ($shown ? 0 : 1));

	$psql[1] = '-Xq' if $shown;
	my $ran = IPC::Run::run(\@psql, '<', \$block->{sql}, '>', \$out, '2>&1');
	if ($shown)
	{
		is(tidy($out), tidy($block->{output}), "output of line $block->{line}");
	}
	else
	{
		ok($ran, "line $block->{line} runs") or diag $out;
	}
}

# it ends with DROP EXTENSION, without CASCADE: nothing is left behind
is($node->safe_psql('readme', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'dualwrite'}), '0', 'the page cleans up');
# ---- the reference is complete

$node->safe_psql('postgres', 'CREATE EXTENSION pg_dualwrite');
my $names = $node->safe_psql(
	'postgres', q{
	SELECT proname FROM pg_proc WHERE proname ~ '^dw_' AND pronamespace = 'public'::regnamespace
	UNION SELECT relname FROM pg_class WHERE relname ~ '^dw_' AND relkind = 'v'
	UNION SELECT attname FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relname ~ '^dw_' AND relkind = 'v') AND attnum > 0
	UNION SELECT name FROM dualwrite.known_options()
	UNION SELECT name FROM pg_settings WHERE name LIKE 'pg\_dualwrite.%'
	ORDER BY 1});
my @missing = grep { index($readme, "`$_`") < 0 } split /\n/, $names;
is("@missing", '', 'it names every verb, view, column, option and setting');
$node->stop;

done_testing();
