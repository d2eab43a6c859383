// The story grammar: who, where and what, and eight small plots in which things have causes.
#include "data/synth/stories.h"

namespace quest {

const std::string_view kStorySource = R"(
# People. `he`, `him`, `his` agree with the row.
table child: name | intro | he | him | his
| Anna | girl named Anna | she | her | her | Bella | girl named Bella | she | her | her
| Clara | girl named Clara | she | her | her | Daisy | girl named Daisy | she | her | her
| Ella | girl named Ella | she | her | her | Flora | girl named Flora | she | her | her
| Grace | girl named Grace | she | her | her | Hazel | girl named Hazel | she | her | her
| Ivy | girl named Ivy | she | her | her | Julia | girl named Julia | she | her | her
| Lily | girl named Lily | she | her | her | Mia | girl named Mia | she | her | her
| Nora | girl named Nora | she | her | her | Olive | girl named Olive | she | her | her
| Poppy | girl named Poppy | she | her | her | Rosa | girl named Rosa | she | her | her
| Adam | boy named Adam | he | him | his | Ben | boy named Ben | he | him | his
| Caleb | boy named Caleb | he | him | his | David | boy named David | he | him | his
| Felix | boy named Felix | he | him | his | George | boy named George | he | him | his
| Henry | boy named Henry | he | him | his | Jack | boy named Jack | he | him | his
| Leo | boy named Leo | he | him | his | Max | boy named Max | he | him | his
| Noah | boy named Noah | he | him | his | Oscar | boy named Oscar | he | him | his
| Peter | boy named Peter | he | him | his | Sam | boy named Sam | he | him | his
| Tom | boy named Tom | he | him | his | Will | boy named Will | he | him | his
| Carol | girl named Carol | she | her | her | Edith | girl named Edith | she | her | her
| Emma | girl named Emma | she | her | her | Hannah | girl named Hannah | she | her | her
| Iris | girl named Iris | she | her | her | Judy | girl named Judy | she | her | her
| Karin | girl named Karin | she | her | her | Laura | girl named Laura | she | her | her
| Lotte | girl named Lotte | she | her | her | Martha | girl named Martha | she | her | her
| Nina | girl named Nina | she | her | her | Paula | girl named Paula | she | her | her
| Ruby | girl named Ruby | she | her | her | Sally | girl named Sally | she | her | her
| Tessa | girl named Tessa | she | her | her | Vera | girl named Vera | she | her | her
| Alex | boy named Alex | he | him | his | Bruno | boy named Bruno | he | him | his
| Carlo | boy named Carlo | he | him | his | Dennis | boy named Dennis | he | him | his
| Eric | boy named Eric | he | him | his | Finn | boy named Finn | he | him | his
| Gus | boy named Gus | he | him | his | Hugo | boy named Hugo | he | him | his
| Ian | boy named Ian | he | him | his | Jonas | boy named Jonas | he | him | his
| Kevin | boy named Kevin | he | him | his | Luke | boy named Luke | he | him | his
| Martin | boy named Martin | he | him | his | Nick | boy named Nick | he | him | his
| Robin | boy named Robin | he | him | his | Simon | boy named Simon | he | him | his

table kin: who | call | he | him | his
| mother | Mom | she | her | her | father | Dad | he | him | his
| grandmother | Grandma | she | her | her | grandfather | Grandpa | he | him | his
| aunt | Auntie | she | her | her | uncle | Uncle | he | him | his

table trait: is
| little | kind | brave | curious | clever | cheerful | quiet | shy | playful | gentle | funny
| busy | lively | careful | dreamy | stubborn | polite | hopeful | hungry | sleepy | patient
| proud | tidy | messy | merry | thoughtful | noisy | tall | small | friendly | nervous | bold

table hobby: do | doing
| climb trees | climbing trees | draw pictures | drawing pictures | sing songs | singing songs
| collect shells | collecting shells | count the stars | counting the stars
| watch the clouds | watching the clouds | tell jokes | telling jokes
| dance in the rain | dancing in the rain | read about dragons | reading about dragons
| jump over puddles | jumping over puddles | chase butterflies | chasing butterflies
| build towers | building towers | bake cookies | baking cookies
| play the flute | playing the flute | paint stones | painting stones
| roll down hills | rolling down hills | fly kites | flying kites
| feed the ducks | feeding the ducks | knit long scarves | knitting long scarves
| catch fireflies | catching fireflies | write letters | writing letters
| whistle tunes | whistling tunes | invent machines | inventing machines
| skip stones on water | skipping stones on water | make masks | making masks
| solve riddles | solving riddles | swim in the lake | swimming in the lake
| ride a bicycle | riding a bicycle | look for mushrooms | looking for mushrooms
| listen to the rain | listening to the rain | mend old clocks | mending old clocks
| walk on stilts | walking on stilts

# Things and places.
table color: is
| red | blue | green | yellow | purple | pink | white | brown | silver | golden | striped
| spotted | shiny | violet | turquoise | wooden | bright red | dark green | pale blue | gray
| black | square | round | soft | patched | gleaming | rusty | checkered | carved | woolen
| crooked | handsome

table toy: is
| ball | kite | doll | drum | train | sailboat | teddy bear | puzzle | scooter | truck | robot
| music box | wagon | puppet | rocking horse | paper plane | yo-yo | spinning top | hobby horse
| tin soldier | dollhouse | trumpet | jumping jack | skateboard | jigsaw | bow and arrow
| toy castle | submarine | marble run | tambourine | model ship | stuffed owl

table treasure: is
| button | key | ring | scarf | hat | whistle | coin | mitten | bell | watch | feather | marble
| lantern | notebook | spoon | compass | brooch | purse | umbrella | penknife | thimble | locket
| glove | pencil case | cup | ribbon | flute | map | belt | magnet | necklace | badge

table place: to | at
| to the park | in the park | to the beach | on the beach | to the river | by the river
| to the forest | in the forest | to the meadow | in the meadow | to the market | at the market
| to the farm | on the farm | to the lake | at the lake | to the old mill | near the old mill
| to the playground | on the playground | to the school yard | in the school yard
| to the top of the hill | on top of the hill | to the harbor | at the harbor
| to the orchard | in the orchard | to the train station | at the train station
| to the library | in the library | to the fair | at the fair
| to the castle ruins | near the castle ruins | to the bridge | on the bridge
| to the lighthouse | at the lighthouse

table spot: at
| under a bench | behind a tree | in the tall grass | between two rocks | inside an old box
| next to the fence | beneath a pile of leaves | near the gate | beside the path
| at the bottom of a puddle | on a low branch | among the flowers | inside a hollow log
| behind the church | under an upturned boat | near the well | at the foot of the stairs
| beside a wheelbarrow | in a flower pot | on the window sill | between the roots
| behind a haystack | in the reeds | under the bridge

table animal: is | home | food | sound
| bird | nest | seeds | chirped | rabbit | burrow | carrots | squeaked
| squirrel | tree | nuts | chattered | hedgehog | den | apples | snuffled
| duckling | pond | bread crumbs | quacked | kitten | barn | milk | meowed
| puppy | dog house | biscuits | barked | lamb | pasture | clover | bleated
| frog | lily pad | flies | croaked | turtle | creek | lettuce | hissed softly
| mouse | hole | cheese | peeped | fox cub | cave | berries | yelped | crow | oak | worms | cawed
| gosling | meadow | grass | honked | piglet | sty | turnips | grunted
| badger | tunnel | roots | snorted

table dish: is | taste
| apple pie | sweet | honey cake | sticky and sweet | vegetable soup | hot and salty
| plum tart | sour and sweet | banana bread | soft and warm | pumpkin stew | thick and spicy
| cheese toast | crisp and golden | rice pudding | smooth and creamy
| berry jam | bright and fruity | lemon cookies | fresh and crumbly | pea soup | green and thick
| nut bread | dark and heavy | cherry cake | moist and sweet | mushroom pie | rich and salty
| apple sauce | cool and mild | potato salad | creamy and fresh

table plant: is | grown
| sunflowers | taller than the fence | strawberries | red and juicy | beans | up to the roof
| carrots | long and orange | roses | pink and full of scent | pumpkins | as round as the moon
| tomatoes | plump and shiny | radishes | crisp and rosy

table chore: did
| swept the floor | watered the plants | washed the dishes | fed the chickens | folded the towels
| raked the leaves | picked the beans | carried the firewood | cleaned the windows
| peeled the potatoes | polished the shoes | stirred the soup | swatted the flies
| brushed the horse | baked the bread | hung up the wash | milked the cow | beat the carpets
| stacked the wood | mended the fence | dusted the shelves | weeded the garden | shelled the peas
| scrubbed the pots | sorted the buttons | painted the gate | collected the eggs
| tidied the attic

table fear: of | truth
| the dark | the dark was only the day with its eyes closed
| thunder | thunder was only the clouds clapping their hands
| deep water | the water would hold anyone who kicked and breathed slowly
| big dogs | most dogs only wanted to say hello
| high places | nobody had to look down while climbing up
| loud noises | a noise could not bite anybody
| spiders | spiders were small and busy and much more afraid
| strangers | every friend had been a stranger once | owls | owls only asked who was there
| the cellar | there was nothing in it but jam | the dentist | the dentist had a nice fish tank
| storms | every storm ran out of breath

table contest: of | did
| a running race | ran as fast as the wind | a singing contest | sang every note without a mistake
| a drawing contest | drew a castle with a hundred windows
| a kite contest | kept the kite in the air until sunset
| a spelling contest | spelled every word slowly and clearly
| a boat race | rowed until both arms were sore
| a jumping contest | jumped higher than ever before
| a cooking contest | stirred the pot and never let it burn
| a sand castle contest | built a tower with three bridges
| a dancing contest | danced without one wrong step | a swimming race | swam like a fish
| a storytelling contest | told a tale about the moon

# The story.
rule story
- [opening]\n[plot]\n[closing]\n\n

rule opening
- [when], there was a {trait=trait.is} {hero=child.intro}. {hero.He} lived in a [house] [near]
  with {hero.his} {kin=kin.who}[pet]. [home] [habit]

rule when
6- Once upon a time
3- Long ago
2- In a faraway land / One summer / One winter
1- Not so long ago

rule house
3- little house
2- cozy cottage / stone house
1- farmhouse / houseboat / tall tower
- windmill / red barn / log cabin / narrow house

rule near
- by the sea / near a forest / on a hill / at the edge of a village / next to a bakery
- beside a river / in the middle of a town / under a huge oak tree / behind the old church
- across from the school / between two hills / close to the harbor / at the end of a long road
- among apple trees / above a shop / by a waterfall

rule pet
3- \e
1- \sand a [pet color] [pet kind]

rule pet color
- gray / black / fat old / sleepy / fluffy / wet / brown / clever / lazy / spotted / striped
- grumpy / noisy / very small / wild / gentle

rule pet kind
- cat / dog / goat / parrot / hen / pony / mouse / donkey / turtle / canary / rabbit / sheep
- hedgehog / duck / goose / lizard

rule home
2- The door was [hue], the roof was [hue], and in front of it stood [seen].
1- From the window one could see [seen] and [seen].
1- Inside it smelled of [smell] and [smell2].
1- On the shelf there were [seen], all made of [made of].

rule smell
- bread / soap / apples / coffee / old books / wood smoke / lavender / onions / ink / honey
- cheese / tea / leather / chalk / ginger / candles

rule smell2
- wet wool / roses / cabbage / cinnamon / paint / fresh hay / fried fish / mint / dog / vinegar
- oranges / pepper / garlic / dust / pine needles / rain

rule made of
- glass / wood / paper / clay / tin / wax / stone / wool / silver / straw / leather / shells
- brass / felt / cork / sugar

rule habit
2- {hero.He} loved [hobby how].
1- More than anything, {hero.he} loved [hobby how].
1- Everyone knew that {hero.name} loved [hobby how].
1- On most days {hero.he} was happy with {hobby=hobby.doing}.

rule hobby how
2- {hobby=hobby.doing}
1- to {hobby=hobby.do}

rule manner
3- \e
1- \s[adverb]

rule say
6- said
1- whispered
2- answered
1- called / murmured / replied

rule adverb
- quietly / cheerfully / slowly / gently / quickly / proudly / kindly / shyly / softly / firmly
- suddenly / bravely / sadly / happily / calmly / politely

rule look
- simple / new / pretty / dusty / smooth / heavy / light / strange / lovely / rare / fine / dented
- painted / plain / curious / well-made / peculiar / huge / tiny / splendid / common / perfect
- funny-looking / broken-in / cheap / graceful / rough / famous / clean / polished / sturdy
- delicate

rule count
- two / three / four / five / six / seven / eight / nine / ten / eleven / twelve / twenty / a few
- many / some / about a hundred

rule hue
- red / blue / green / yellow / purple / pink / white / brown / black / gray / golden / silver
- striped / spotted / bright / faded / copper / dark red / light blue / pale / dark / violet
- cream-colored / rosy / worn / new / small / large / dusty / lovely / dirty / shiny

rule sight
- ducks / cows / sheep / horses / geese / swallows / ladybugs / snails / crickets / butterflies
- chimneys / windmills / wagons / barrels / ladders / bicycles / rowing boats / carts / flags
- haystacks / mushrooms / tulips / daisies / gates / bridges / benches / baskets / umbrellas
- lanterns / tents / kites / doves / rabbits / goats / donkeys / frogs / beetles / sparrows / owls
- foxes / turtles / herons / trees / bushes / roses / pine cones / pumpkins / cabbages / stones
- towers / huts / barns / fences / wells / statues / lamps / stairs / sacks / bottles / ropes
- buckets / pillows / carpets / clocks

rule seen
- [count] [hue] [sight]

rule clothes
- coat / cap / scarf / sweater / raincoat / dress shirt / vest / jacket / cape / hat / shawl
- apron / tunic / cardigan / bathrobe / poncho

# On the way to somewhere.
rule journey
2- On the way {hero.he} saw [seen], [seen] and [seen].
1- It was a long walk, past [seen] and [seen].
1- {hero.He} wore a [hue] [clothes] and carried a bag with [packed], [packed] and [packed].
1- The path was [path] and led between [seen] and [seen].

rule path
- steep / muddy / narrow / dusty / winding / quiet / sandy / rocky / shady / stony / grassy
- crooked / slippery / lonely / broad / new

rule packed
- an apple / a book / a bottle of milk / a pencil / a [hue] blanket / some string / a flute
- a sandwich / a map / a [hue] towel / [count] plums / [count] nuts / [count] [hue] pebbles
- a small knife / a candle / a spoon / a comb / a ball of wool / a piece of cheese / a whistle
- [count] walnuts / [count] [hue] buttons / a [hue] ribbon / a [hue] cup / two pears
- a rolled-up towel / a roll with butter / a magnifying glass / a hammer / a deck of cards
- a [hue] notebook / a slice of bread

rule plot
- [wanting] / [losing] / [rescue] / [present] / [fright] / [quarrel] / [garden] / [contest]

rule day
2- One day / One [weather] morning
1- One [weather] afternoon / On a [weather] evening / On {hero.his} birthday / Last [weekday]

rule weekday
- Monday / Tuesday / Wednesday / Thursday / Friday / Saturday / Sunday

rule weather
- sunny / windy / rainy / cloudy / foggy / cold / warm / bright / snowy / frozen / hot / gray
- golden / stormy / quiet / frosty

# Somebody wants a thing, earns it, and shares it.
rule wanting
- [day], {hero.name} saw a [look] {color=color.is} {thing=toy.is} in [shop]. [wish]\n[ask]
  [answer] [earned]\n{hero.name} took it {place=place.to}. [journey] Then {hero.he} met a
  {trait2=trait.is} {friend=child.intro!hero}. [share]

rule shop
- a shop window / the toy shop / the corner of a shop / an old catalog
- the window of the market hall

rule wish
- {hero.He} wanted it very much.
- It was the best {thing.is} {hero.he} had ever seen.
- {hero.His} heart began to beat fast.
- {hero.He} could not think of anything else.

rule ask
2- "Please, {kin.call}, may I have the {thing.is}?" {hero.he} asked.
1- "{kin.call}, I wish I had that {thing.is}," {hero.he} said.
1- "Can we buy it, {kin.call}?" asked {hero.name}.

rule answer
2- "If you help me, you may have it," [say] {hero.his} {kin.who}.
1- {hero.His} {kin.who} thought for a while. "You must earn it," {kin.he} said.
1- {hero.His} {kin.who} smiled. "Good things take a little work," {kin.he} said.

rule earned
2- So {hero.name} {chore=chore.did} and {chore2=chore.did!chore}[effort].
1- All week {hero.name} {chore=chore.did}[effort]. On [weekday] {hero.he} also
  {chore2=chore.did!chore}.
1- That is why {hero.name} {chore=chore.did}, {chore2=chore.did!chore} and
  {chore3=chore.did!chore!chore2}. In the end, the {thing.is} belonged to {hero.him}.

rule effort
3- \e
1- \swithout being told twice / , even though it was hard / , humming all the time
1- \suntil {hero.his} hands hurt

rule share
- {friend.name} had no {thing.is} and looked [sad]. "[let us], {friend.name}," [say]
  {hero.name}[manner]. They played {place.at} until [late].
- {friend.name} looked at the {thing.is} and asked, "May I try it?" [first no] Then {hero.he}
  said, "[let us], {friend.name}." Soon they were both laughing.
- Suddenly the {thing.is} broke! {hero.name} [cried]. But {friend.name} knew how to fix it with
  [tool]. "Now it is ours," [say] {hero.name}[manner], and they played until [late].

rule sad
- sad / lonely / unhappy / close to tears

rule let us
- Let us play together / You can go first / Take a turn / It is more fun with two

rule first no
- {hero.name} held it tight at first. / At first {hero.name} did not answer.
- For a moment {hero.name} wanted to say no.

rule cried
2- began to cry
1- sat down on the ground / did not know what to do / turned quite pale

rule tool
- a piece of string / some glue / two nails / a strip of cloth / a drop of oil / a bent pin
- a rubber band / a clothes peg / a drop of wax / a safety pin / some yarn / a hairpin
- a screwdriver / chewing gum / a bit of clay / a splinter of wood

rule late
- it got dark / the sun went down / dinner time / the bells rang / the first star came out
- {hero.his} {kin.who} called / the rain began / the lamps were lit / they were tired
- nobody could see a thing / the owls woke up / the clock struck six / the cows came home
- the fog rolled in / the moon rose

# Somebody loses a thing; two search; it is found somewhere.
rule losing
- [day], {hero.name} went {place=place.to} with {hero.his} [look] {color=color.is}
  {thing=treasure.is}. It was a gift from {hero.his} {kin.who}. [journey] [pastime] Then {hero.he}
  put a hand in {hero.his} pocket. The {thing.is} was gone! {hero.name} [cried].\nA
  {trait2=trait.is} {friend=child.intro!hero} in a [hue] [clothes] came by. [what wrong] "I lost
  my {color.is} {thing.is}," [say] {hero.name}[manner]. [search] [found]\n[thanks]

rule pastime
- {hero.He} ran and jumped all morning.
- {hero.He} looked for [pebbles] for an hour.
- {hero.He} fell asleep in the sun. / {hero.He} was busy with {hobby.doing}.
- {hero.He} ate a slice of {dish=dish.is} and watched the [watched].

rule pebbles
- round pebbles / pretty leaves / four-leaf clovers / beetles / pine cones

rule watched
- ants / clouds / people / bees / birds / boats

rule what wrong
2- "What is wrong?" {friend.he} asked.
1- "Why do you look so [sad]?" asked {friend.name}.
1- "Can I help you?" asked {friend.name}.

rule search
2- They looked {spot=spot.at}, but it was not there. They looked {spot2=spot.at!spot}, but they
  found only [junk].
1- First they looked {spot=spot.at}. There was only [junk]. {hero.name} almost gave up.
1- They asked [asked], but nobody had seen it.

rule junk
- an old boot / a snail / a rusty nail / an acorn / a torn sock / some feathers / a sleeping toad
- an empty bottle / a bent fork / an empty nest / a wet newspaper / two bottle caps
- a piece of rope / a mushroom / a broken cup / an angry wasp

rule asked
- a farmer / the baker / two sailors / an old woman / the teacher / a man with a cart / a postman
- the librarian / a shepherd / three children / a fisherman / a girl with a dog / the miller
- a tired soldier / a painter / the gardener

rule found
2- At last {friend.name} saw something {find=spot.at}. It was the {thing.is}!
1- Then {friend.name} had an idea. "[idea]" {friend.he} said. They went back, and there it was,
  {find=spot.at}.
1- Just then a {animal=animal.is} {animal.sound} {find=spot.at}. It was sitting on the {thing.is}!
  {hero.name} gave it some {animal.food}, and it hopped away.

rule idea
- Where were you when you last had it? / Let us walk the same way again.
- Close your eyes and think.

rule thanks
- "Thank you, {friend.name}! [you are]," [say] {hero.name}[manner]. From then on {hero.he} kept
  the {thing.is} [safe].
- {hero.name} was so happy that {hero.he} hugged {friend.name}. They shared a piece of
  {dish2=dish.is} that tasted [taste].
- "You found it, so you may wear it today," [say] {hero.name}[manner]. {friend.name} [beamed].

rule you are
- You are a true friend / You have sharp eyes / I will never forget this / You saved the day

rule safe
- in a little bag / on a string / in a box under the bed / close to {hero.his} heart

rule taste
- {dish2.taste}

rule beamed
- beamed / blushed / laughed out loud / jumped for joy / bowed like a king

# An animal is in trouble and is brought home.
rule rescue
- [day], {hero.name} heard a sound {place=place.at}. A [fur] {animal=animal.is} was [stuck]
  {spot=spot.at}. It {animal.sound} and looked at {hero.him}. [pity]\n{hero.name} ran to get
  {hero.his} friend {friend=child.name!hero}. [journey] [plan] [work] The {animal.is} was
  free!\n[hungry] [goes home]

rule fur
- small / brown / gray / white / black / spotted / wet / young / fat / thin / muddy / shaggy
- striped / golden / trembling / big

rule stuck
2- stuck / caught
1- shaking with cold / all alone / lying with a hurt leg

rule pity
- "Poor thing," [say] {hero.name}[manner]. "I will help you."
- {hero.name} knew that {hero.he} had to do something.
- "Do not be afraid," {hero.name} whispered.

rule plan
- "We need [rescue tool]," [say] {friend.name}[manner].
- "Be very gentle," [say] {friend.name}[manner].
- {friend.name} was scared, but {friend.he} came along.
- {friend.name} brought [rescue tool] and a lamp.

rule rescue tool
- a rope / a blanket / a long stick / a basket / a ladder / warm gloves / a net
- a bucket of water / a wheelbarrow / a saw / an old coat / a lantern / a fishing rod
- three planks / a hook / a spade

rule work
- Together they [pulled] and [pulled].
- {hero.name} [pulled] while {friend.name} talked to it softly.
- It took them [how long].

rule pulled
- pulled / dug / pushed / lifted

rule how long
- only a minute / almost an hour / the whole afternoon / three tries

rule hungry
2- They gave it some {animal.food}, and it ate [ate].
1- It wanted no {animal.food}. It was too tired.
1- "It must be hungry," [say] {friend.name}[manner], so they looked for some {animal.food}.

rule ate
- everything / slowly / out of {hero.name}'s hand / until it was full

rule goes home
2- Then they carried it back to its {animal.home}. Its mother {animal.sound} with joy.
1- In the evening it went home to its {animal.home}, but it came back to visit every [weekday].
1- They looked for its {animal.home} {spot2=spot.at!spot} and found it at [last time].

rule last time
- sunset / noon / the end of the day / the third try

# A present is made, something goes wrong, and it turns out well.
rule present
- [day], {hero.name} wanted to surprise {hero.his} {kin.who}. "{kin.He} likes {dish=dish.is},"
  {hero.he} thought. On the table lay [packed], [packed] and [packed]. {hero.He} asked {hero.his}
  neighbor {friend=child.name!hero} for help. They took a [look] [hue] bowl and mixed
  [ingredient], [ingredient2] and [count] spoons of [ingredient3]. [mess]\n"[oh no]" [say]
  {friend.name}[manner]. [rescue dish]\nWhen {hero.his} {kin.who} came home, {kin.he} tasted it.
  It was {dish.taste}. [verdict]

rule ingredient
- flour / butter / sugar / eggs / milk / honey

rule ingredient2
- salt / nuts / cinnamon / raisins / cream / a pinch of pepper

rule ingredient3
- water / oil / vanilla / oats / yogurt / lemon juice

rule mess
- Then {hero.name} dropped the bowl.
- Then a {animal=animal.is} ran over the table.
- Then smoke came out of the oven. / But they forgot to stir it.
- But there was not enough for everyone.

rule oh no
- Oh no! / What now? / Everything is ruined! / Do not worry! / We can try again!

rule rescue dish
- They cleaned up and started again from the beginning.
- They [added] and made it much better.
- {hero.name} took a deep breath and read the recipe once more.
- {friend.name} ran home and came back with more [ingredient].

rule added
- added some cheese / cut off the black parts / poured in some water / put berries on top
- covered it with sugar

rule verdict
- "This is the best {dish.is} in the world!" {kin.he} said.
- "You made this for me?" {kin.he} asked and [kissed] {hero.him}.
- {kin.He} laughed and gave everyone a [big] piece.
- {kin.He} ate [portions] and asked for more.

rule kissed
- kissed / hugged / thanked

rule big
- big / fair / second

rule portions
- one plate / two plates / three plates

# Somebody is afraid, learns something, and is brave.
rule fright
- There was one thing that {hero.name} did not like. {hero.He} was afraid of {fear=fear.of}.
  [day], {hero.he} had to go {place=place.to} with {hero.his} friend {friend=child.name!hero}.
  [journey] [worry]\nSo {hero.name} told {hero.his} {kin.who} about it. [comfort] {kin.He} said
  that {fear.truth}.\n[tries] [brave end]

rule worry
- {hero.name} [trembled] and wanted to stay in bed.
- "[excuse]," [say] {hero.name}[manner], but it was not true.
- {friend.name} laughed at {hero.him}, and that made it worse.
- {hero.His} knees [shook] at the thought.

rule trembled
- trembled / hid under the blanket / could not sleep / felt sick

rule excuse
- I have a cold / My foot hurts / I have no time / I must stay with the cat

rule shook
- shook / felt like butter / went weak

rule comfort
- {kin.He} took {hero.him} by the hand. / {kin.He} did not laugh at all.
- {kin.He} gave {hero.him} a {color=color.is} {thing=treasure.is} for luck.
- "I was afraid too when I was small," [say] {hero.his} {kin.who}.

rule tries
2- The next day {hero.name} tried it, step by step.
1- {hero.name} closed {hero.his} eyes and counted to [number].
1- "I can do it," [say] {hero.name} to {friend.name}.

rule number
- three / seven / ten / twenty / a hundred

rule brave end
- It was not so bad. {hero.name} even [brave act].
- {hero.His} heart beat fast, but {hero.he} kept going. "[praise]!" cried {friend.name}.
- And then {friend.name} was the one who was afraid, and {hero.name} held {friend.his} hand.

rule brave act
- laughed / began to sing / asked to do it again / forgot to be afraid / led the way

rule praise
- Well done / You did it / Hurrah / How brave you are

# Two friends both want a thing, and make up.
rule quarrel
- {hero.name} had a friend whose name was {friend=child.name!hero}. [day], they found a [look]
  {color=color.is} {thing=toy.is} {place=place.at}. It lay between [seen] and [seen]. "[mine],"
  [say] {hero.name}[manner]. "[no mine]," [say] {friend.name}[manner]. [fight]\n[angry]
  [regret]\nSo {hero.he} went to {friend.name} with [peace gift]. [sorry] [peace]

rule mine
- I saw it first / It is mine / Give it to me / I need it more than you

rule no mine
- No, I picked it up / You always get everything / That is not fair / Let go of it

rule fight
- They pulled until the {thing.is} broke in two.
- They shouted so loudly that [startled] ran away.
- {friend.name} took the {thing.is} and ran off.
- {hero.name} threw the {thing.is} into the [water].

rule startled
- the birds / a dog / the sheep / two rabbits

rule water
- river / well / mud / bushes

rule angry
- For [how many days] they did not speak.
- {hero.name} went home and slammed the door.
- Nobody wanted to play alone, and it was [dull].

rule how many days
- one day / two days / three days / a whole week

rule dull
- very dull / too quiet / no fun at all

rule regret
- {hero.name} missed {friend.name} more than the {thing.is}.
- "What good is a {thing.is} without a friend?" asked {hero.his} {kin.who}.
- That night {hero.name} thought about it and felt [ashamed].

rule ashamed
- ashamed / sorry / very small / like crying

rule peace gift
- some {dish=dish.is} / a bunch of {plant=plant.is}
- a {color2=color.is!color} {gift=treasure.is}
- a drawing of the two of them

rule sorry
- "I am sorry," {hero.he} said.
- "Can we be friends again?" {hero.he} asked.
- "I was wrong," [say] {hero.name}[manner].

rule peace
2- {friend.name} smiled. "I am sorry too," {friend.he} said.
1- They made a new {thing.is} out of [scraps], and it was even better.
1- {friend.name} gave {hero.him} half of {friend.his} {lunch=dish.is}, and all was well.

rule scraps
- paper and glue / old boxes / sticks and mud / a broken chair

# A garden is planted; something eats it; a fair agreement is made.
rule garden
- [day], {hero.name} and {hero.his} neighbor {friend=child.name!hero} planted {plant=plant.is}
  behind the house, next to [seen] and [seen]. They watered them every [daypart]. [waiting]\nBut
  then something ate the leaves! [suspect] That night they hid {spot=spot.at} and waited. It was a
  [fur] {animal=animal.is}! [caught] [deal]\nBy the end of [season], the {plant.is} had grown
  {plant.grown}. [harvest]

rule daypart
- morning / evening / day / other day

rule waiting
- For a long time nothing happened.
- After [number] days they saw the first green tips.
- "Grow, grow, grow," sang {friend.name}.
- {hero.name} measured them with a [ruler].

rule ruler
- ruler / stick / piece of string

rule suspect
- "Who did this?" asked {hero.name}.
- "It must be the goat," [say] {friend.name}[manner].
- {friend.name} wanted to build a [trap].
- {hero.name} was so angry that {hero.he} stamped {hero.his} foot.

rule trap
- trap / fence / scarecrow

rule caught
- It {animal.sound} and looked hungry. / It had [babies] with it.
- "Please do not hurt it," [say] {friend.name}[manner].

rule babies
- two babies / three babies / four babies / a whole family

rule deal
- So they put out some {animal.food} each night, and it left the garden alone.
- They made it a little {animal.home} and gave it {animal.food}.
- "We will leave one row for you," [say] {hero.name}[manner], and they did.

rule season
- spring / summer / August / September

rule harvest
- They filled [number] baskets.
- They sold some and bought a {color=color.is} {thing=toy.is}.
- They gave the best ones to {hero.his} {kin.who}.
- {hero.His} {kin.who} used them for {dish=dish.is}, and it was {dish.taste}.

# A contest is practised for, and lost or won with grace.
rule contest
- [day], {hero.name} heard about {contest=contest.of} {place=place.at}. The prize was a [look]
  {color=color.is} {thing=treasure.is}. {hero.He} practised every day, and {hero.his} {kin.who}
  [helped]. [rival]\nWhen the day came, there were [seen], [seen] and [count] [judges].
  {hero.name} {contest.did}. [middle] [result]

rule helped
- helped / kept the time / clapped / gave good advice / cooked {dish=dish.is}

rule rival
- But {hero.his} friend {friend=child.name!hero} was good at it too.
- "I will beat you," said a {trait2=trait.is} {friend=child.intro!hero}.
- A {trait2=trait.is} {friend=child.intro!hero} had never tried it before and was nervous.

rule judges
- judges / teachers / old sailors / musicians / cooks / clowns / bakers / dancers / farmers
- proud parents / firemen / poets / gardeners / fishermen / neighbors / tailors

rule middle
- Then {friend.name} stumbled and [hurt]. {hero.name} stopped and helped {friend.him} up.
- {friend.name} did just as well. Everyone held their breath.
- Everyone cheered for {friend.name}, and {hero.name} felt [sad].

rule hurt
- fell / hurt a knee / lost a shoe / dropped everything

rule result
- In the end {hero.name} won the {thing.is} and gave it to {friend.name}.
- In the end {friend.name} won. "You were better today," [say] {hero.name}[manner].
- They both won, so they cut the prize money and bought {dish2=dish.is} for all.
- An old man won the {thing.is}, and the two friends laughed about it for [laughed].

rule laughed
- days / weeks / years

# The end comes back to what the beginning said.
rule closing
1- [lesson] / [evening][more]

rule more
2- \s[lesson]
1- \e

rule evening
2- In the evening, {hero.name} told {hero.his} {kin.who} all about it.
1- When {hero.name} came home, {hero.his} {kin.who} made some {supper=dish.is}. "[good child],"
  {kin.he} said.
1- The next day {hero.name} and {friend.name} spent hours {hobby.doing}.
1- In bed, {hero.name} dreamed of {hobby.doing} with {friend.name}.
2- That night {hero.name} dreamed of [seen], [seen] and a [look] [hue] [dreamed].
1- For supper there was {supper2=dish.is}, and {friend.name} ate [count] bowls of it.

rule dreamed
- castle / ship / dragon / garden / horse / moon / bridge / king / giant / whale / cloud / clock
- mountain / train / tree / lion

rule good child
- I am proud of you / You have a good heart / What a day / Tell me more

rule lesson
2- From that day on, {hero.name} and {friend.name} were best friends.
1- And {hero.name} never forgot it. / {hero.name} learned that [wisdom].
1- "Tomorrow I will teach you to {hobby.do}," [say] {hero.name} to {friend.name}.
1- They lived happily ever after.

rule wisdom
- sharing makes every day brighter / patience is worth more than gold
- a friend is the best treasure / it is never too late to say sorry
- even small hands can do great things / being kind costs nothing
)";

}  // namespace quest
